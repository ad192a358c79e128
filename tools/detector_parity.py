"""Compares detectors with torchvision's: the same weights, boxes, scores and losses.

    python tools/detector_parity.py --torch PYTHON [NAME ...]   # all models by default
    PYTHON tools/detector_parity.py --write-tiny NAME ...       # tests/models/data/NAME.npz

PYTHON is an interpreter with torch and torchvision, which needs no JAX; the other one has convmesh
and needs no torch. For each model, torch makes random weights, the same each time, under which a
few thousand candidates of different scores overlap, and computes in float32 and in float64 the
outputs of the head, the parts of the loss, and the detections of 20 images, all kept in a file.

The table has the largest differences: of an output of the head, relative to the largest; of a part
of the loss, relative to it, from torch's own outputs; of a box, in pixels; of a score; and how many
detections of how many images were compared. A detection is another if label or number differ, which
in float32 rounding can do where a score or an overlap is just at a limit. Exits with 1 where the
outputs or losses differ by more than 1e-4 and 1e-5 in float32 or 1e-9 in float64, or boxes by 1e-3
or scores by 1e-4, or a detection is another.

`--first MODULE` is imported by PYTHON before torchvision, to prepare it on machines for which it
has no build. The tiny nets are torch's own classes at a few channels, judged in `make test`.
"""

import argparse
import dataclasses
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from weight_parity import DATA, error, randomise, tiny_resnet

DTYPES = ("float32", "float64")
LARGEST_OUTPUT = {"float32": 1e-4, "float64": 1e-9}
LARGEST_LOSS = {"float32": 1e-5, "float64": 1e-9}
LARGEST_BOX, LARGEST_SCORE = 1e-3, 1e-4
MAX_BOXES = 8
# What torch calls a part of the loss, and its name here.
LOSSES = {"classification": "class", "bbox_regression": "box", "bbox_ctrness": "centre"}


@dataclasses.dataclass(frozen=True)
class Net:
    """A detector, how it is made with torch, and how it is tried.

    size: of its images, (height, width). images: their number; the outputs and losses are compared
    for the first `batch`. candidates: about how many pairs of anchor and class are over the
    threshold. offsets: deviation of the offsets of boxes; one at which no score or overlap is so
    near a limit that torch's own detections differ between the dtypes. frozen_epsilon: of its
    frozen batch norms, None for trained ones.
    """

    make: Callable[[], Any]
    prepare: Callable[[Any, Any, "Net"], None]
    size: tuple[int, int]
    images: int = 20
    batch: int = 4
    candidates: int = 3000
    offsets: float = 0.05
    frozen_epsilon: float | None = None


# --- in the interpreter with torch ----------------------------------------------------------------


def published(name: str):
    """Torchvision's model `name` for COCO, with batch norms that are not yet frozen."""
    from torchvision.models import get_model

    return get_model(name, weights=None, weights_backbone=None)


def tiny_pyramid(extra_channels: int):
    """A ResNet at 8 to 64 channels with a feature pyramid of 8."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    extra = LastLevelP6P7(extra_channels, 8)
    body = tiny_resnet("Bottleneck", (1, 1, 1, 1), width=2)
    return BackboneWithFPN(body, layers, [16, 32, 64], 8, extra)


def tiny_retinanet():
    """Torchvision's RetinaNet of a tiny net, for three classes."""
    from torchvision.models.detection import RetinaNet

    return RetinaNet(tiny_pyramid(8), 4)


def tiny_retinanet_v2():
    """The same in its second version, with group norms of four groups."""
    from functools import partial

    from torch import nn
    from torchvision.models.detection import retinanet

    head = retinanet.RetinaNetHead(8, 9, 4, norm_layer=partial(nn.GroupNorm, 4))
    head.regression_head._loss_type = "giou"
    return retinanet.RetinaNet(tiny_pyramid(64), 4, head=head)


def tiny_fcos():
    """Torchvision's FCOS of a tiny net, with group norms of four groups."""
    from functools import partial

    from torch import nn
    from torchvision.models.detection import fcos

    head = fcos.FCOSHead(32, 1, 4)
    norm = partial(nn.GroupNorm, 4)
    head.classification_head = fcos.FCOSClassificationHead(8, 1, 4, norm_layer=norm)
    head.regression_head = fcos.FCOSRegressionHead(8, 1, norm_layer=norm)
    return fcos.FCOS(tiny_pyramid(8), 4, head=head)


def set_output(layer, outputs, mean: float, deviation: float) -> None:
    """Scales a layer so that its `outputs` get this mean and deviation."""
    scale = deviation / outputs.std()
    layer.weight.data *= scale
    layer.bias.data = layer.bias.data * scale + mean - (outputs * scale).mean()


def prepare_dense_head(net, images, options: Net) -> None:
    """Weights of a RetinaNet or FCOS under which many boxes are found, of some classes more.

    The class 0 is never found.
    """
    import torch

    dense = hasattr(net.head.regression_head, "bbox_ctrness")
    with torch.no_grad():
        for name, value in net.head.named_parameters():
            if value.ndim == 4:
                torch.nn.init.kaiming_normal_(value)
            else:
                value.uniform_(0.5, 1) if name.endswith("weight") else value.normal_(0, 0.1)
        features = list(net.backbone(images).values())
        outputs = net.head(features)
        regression = net.head.regression_head
        if dense:
            raw = torch.cat(
                [regression.bbox_reg(regression.conv(x)).flatten(2) for x in features], 2
            )
            set_output(regression.bbox_reg, raw, 2.0, 0.4)
            set_output(regression.bbox_ctrness, outputs["bbox_ctrness"], 0.5, 1.5)
        else:
            set_output(regression.bbox_reg, outputs["bbox_regression"], 0.0, options.offsets)
        layer, logits = net.head.classification_head.cls_logits, outputs["cls_logits"]
        classes = torch.randn(logits.shape[2]) * 1.5
        classes[0] = -30
        layer.bias.zero_()
        set_output(layer, logits, 0.0, 1.0)
        layer.bias += classes.repeat(len(layer.bias) // len(classes))
        logits = net.head(features)["cls_logits"][..., 1:]
        rank = max(1, round(logits[:1].numel() * (1 - options.candidates / logits[:1].numel())))
        limit = logits[:1].flatten().kthvalue(rank).values
        layer.bias += (-2.2 if dense else -2.9) - limit


def with_frozen_norms(module, epsilon: float):
    """Replaces the batch norms inside `module` by frozen ones of the same values."""
    from torch import nn
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, epsilon)
            state = child.state_dict()
            del state["num_batches_tracked"]
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            with_frozen_norms(child, epsilon)


def smooth_images(count: int, size: tuple[int, int]):
    """Random uint8 images [count, 3, height, width] of large and small structures."""
    import torch
    from torch.nn.functional import interpolate

    total = torch.zeros(count, 3, *size)
    for step, weight in ((32, 1.0), (8, 0.5), (1, 0.15)):
        noise = torch.rand(count, 3, size[0] // step, size[1] // step)
        total += weight * interpolate(noise, size=size, mode="bilinear")
    return (total / total.max() * 255).byte()


def random_targets(count: int, size: tuple[int, int], classes: int) -> list[dict]:
    """Boxes of all sizes, whose areas differ; the last image has none."""
    import torch

    targets = []
    for i in range(count):
        n = 0 if i == count - 1 else MAX_BOXES - i % 3
        scale = torch.tensor([size[1], size[0]])
        side = (
            scale
            * torch.logspace(-1.3, -0.15, MAX_BOXES)[:n, None]
            * (0.7 + 0.6 * torch.rand(n, 2))
        )
        side = torch.minimum(side, 0.95 * scale).round()
        corner = ((scale - side) * torch.rand(n, 2)).round()
        boxes = torch.cat([corner, corner + side], 1)
        targets.append({"boxes": boxes, "labels": torch.randint(1, classes, (n,))})
    return targets


def torch_results(net, images, targets: list[dict], batch: int) -> dict[str, np.ndarray]:
    """The outputs of the head and the losses of the first images, the detections of all."""
    import torch

    arrays, outputs = {}, []
    hook = net.head.register_forward_hook(lambda *args: outputs.append(args[2]))
    dtype = next(net.parameters()).dtype
    name = str(dtype).removeprefix("torch.")
    images = [image.to(dtype) / 255 for image in images]
    with torch.no_grad():
        net.training = True  # itself, not its norms
        few = [{**t, "boxes": t["boxes"].to(dtype)} for t in targets[:batch]]
        losses = net(images[:batch], few)
        net.training = False
        hook.remove()
        arrays |= {f"output/{name}/{k}": v.numpy() for k, v in outputs[0].items()}
        arrays |= {f"loss/{name}/{LOSSES[k]}": v.numpy() for k, v in losses.items()}
        for i, image in enumerate(images):
            (found,) = net([image])
            sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
            # Two of them in one place are not treated alike by all builds of torchvision.
            assert sides.numel() and sides.min() > 0, "a box without area"
            arrays |= {f"found/{name}/{i}/{k}": v.numpy() for k, v in found.items()}
    return arrays


def write(name: str, file: Path) -> None:
    """Writes weights, images, boxes and results for the net `name`."""
    import torch

    options = NETS[name]
    torch.manual_seed(0)
    net = options.make().eval()
    net.transform.min_size, net.transform.max_size = (min(options.size),), max(options.size)
    images = smooth_images(options.images, options.size)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (net.transform.image_mean, net.transform.image_std)
    )
    normal = (images[: options.batch] / 255 - mean) / std
    randomise(net.backbone, normal)
    for module, norm in net.backbone.named_modules():
        if module.endswith("bn3"):  # small, as in trained nets: otherwise rounding is amplified
            norm.weight.data *= 0.2
    options.prepare(net, normal, options)
    if options.frozen_epsilon is not None:
        with_frozen_norms(net, options.frozen_epsilon)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half().float())
    classes = net.head.classification_head.num_classes
    targets = random_targets(options.batch, options.size, classes)
    arrays = {
        f"weight/{k}": v.numpy().astype(np.float16) for k, v in net.state_dict().items() if v.ndim
    }
    arrays["images"] = images.permute(0, 2, 3, 1).numpy()
    for i, target in enumerate(targets):
        arrays |= {f"target/{i}/{k}": v.numpy() for k, v in target.items()}
    arrays |= torch_results(net.float(), images, targets, options.batch)
    arrays |= torch_results(net.double(), images, targets, options.batch)
    if name in TINY:  # a part of the outputs is enough, and small
        for key in [key for key in arrays if key.startswith(("output/", "found/float32"))]:
            array = arrays.pop(key)
            if key.startswith("output/float64"):
                arrays[key] = array[:1, ::5]
    np.savez_compressed(file, **arrays)


LARGE = Net(published, prepare_dense_head, (320, 416))


def _large(name: str, **options) -> Net:
    return dataclasses.replace(LARGE, make=lambda: published(name), **options)


def _tiny(make: Callable, **options) -> Net:
    return Net(make, prepare_dense_head, (64, 96), images=2, batch=2, candidates=200, **options)


# Published with an epsilon of 0 (`overwrite_eps`).
TINY = {
    "tiny_retinanet": _tiny(tiny_retinanet, frozen_epsilon=0.0),
    "tiny_retinanet_v2": _tiny(tiny_retinanet_v2),
    "tiny_fcos": _tiny(tiny_fcos, frozen_epsilon=1e-5),
}
NETS = TINY | {
    "retinanet_resnet50_fpn": _large("retinanet_resnet50_fpn", offsets=0.06, frozen_epsilon=0.0),
    "retinanet_resnet50_fpn_v2": _large("retinanet_resnet50_fpn_v2"),
    "fcos_resnet50_fpn": _large("fcos_resnet50_fpn", frozen_epsilon=1e-5),
}


# --- in the interpreter with convmesh -------------------------------------------------------------


def batch_of(arrays) -> Any:
    """The images and boxes whose losses torch has computed, as a batch."""
    from convmesh.distributed.batch import Batch

    count = sum(key.startswith("target/") for key in arrays.files) // 2
    boxes, labels = np.zeros((count, MAX_BOXES, 4), np.float32), np.zeros((count, MAX_BOXES), int)
    valid = np.zeros((count, MAX_BOXES), bool)
    for i in range(count):
        n = len(arrays[f"target/{i}/boxes"])
        boxes[i, :n], valid[i, :n] = arrays[f"target/{i}/boxes"], True
        labels[i, :n] = arrays[f"target/{i}/labels"] - 1
    return Batch(
        image=arrays["images"][:count],
        index=np.arange(count),
        present=np.ones(count, bool),
        boxes=boxes,
        labels=labels,
        valid=valid,
        crowd=np.zeros_like(valid),
        truncated=np.zeros(count, int),
    )


@dataclasses.dataclass
class Errors:
    """The largest differences of one model in one dtype, see the docstring of this file."""

    output: float = 0.0
    loss: float = 0.0
    box: float = 0.0
    score: float = 0.0
    detections: int = 0
    others: int = 0

    def compare(self, found: dict[str, np.ndarray], arrays, prefix: str) -> None:
        """Adds the differences of the detections of one image; torch's are `prefix`..."""
        boxes, scores, labels = (arrays[f"{prefix}/{k}"] for k in ("boxes", "scores", "labels"))
        valid = found["valid"]
        self.detections += len(boxes)
        self.others += abs(int(valid.sum()) - len(boxes))
        taken: set[int] = set()
        for box, score, label in zip(boxes, scores, labels - 1, strict=True):
            apart = np.abs(found["boxes"] - box).max(1)
            apart = np.where(valid & (found["labels"] == label), apart, np.inf)
            apart[list(taken)] = np.inf
            i = int(np.argmin(apart))
            score_apart = abs(float(found["scores"][i] - score))
            if apart[i] > LARGEST_BOX or score_apart > LARGEST_SCORE:
                self.others += 1
                continue
            taken.add(i)
            self.box, self.score = max(self.box, apart[i]), max(self.score, score_apart)

    def equal(self, dtype: str) -> bool:
        """Whether nothing differs by more than it may."""
        within = self.output <= LARGEST_OUTPUT[dtype] and self.loss <= LARGEST_LOSS[dtype]
        return within and self.others == 0


def errors(name: str, arrays, dtype: str) -> Errors:
    """The errors of the model `name` in `dtype`."""
    import jax
    import jax.numpy as jnp

    from convmesh.config import apply_overrides, defaults
    from convmesh.models.registry import make_model
    from convmesh.steps.step import predict_step
    from convmesh.tasks.registry import make_task
    from convmesh.weights.torch_names import from_torch, with_epsilon

    size, epsilon = arrays["images"].shape[1:3], NETS[name].frozen_epsilon
    config = apply_overrides(defaults("detect"), {"model.name": name, "data.image_size": size})
    model = make_model(name, "detect", 90, dtype)
    task = make_task(config, 90, model)
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3), dtype))
    weights = state if epsilon is None else with_epsilon(state, epsilon)
    variables, fit = from_torch(model.torch_names(), abstract, weights)
    fit.require_complete(name, name)

    result, batch = Errors(), batch_of(arrays)
    images = task.pixels.normalise(jnp.asarray(batch.image), model.dtype)
    outputs = jax.jit(model.apply)(variables, images)
    keys = [key for key in arrays.files if key.startswith(f"output/{dtype}/")]
    wanted = [arrays[key].reshape(each.shape) for key, each in zip(keys, outputs, strict=True)]
    result.output = np.max([error(*pair) for pair in zip(outputs, wanted, strict=True)])
    _, numbers = jax.jit(task.loss)(type(outputs)(*map(jnp.asarray, wanted)), batch)
    for key in arrays.files:
        if key.startswith(f"loss/{dtype}/"):
            ours = numbers[f"loss/{key.rpartition('/')[2]}"]
            result.loss = np.maximum(result.loss, error(ours, arrays[key]))  # NaN stays
    predict = jax.jit(lambda image: predict_step(variables, image, model, task))
    for i, image in enumerate(arrays["images"]):
        found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), predict(image[None]))
        result.compare(found, arrays, f"found/{dtype}/{i}")
    return result


def compare(names: list[str], torch: list[str]) -> bool:
    """Prints a row for each model and dtype; whether all are equal. `torch`: what writes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    print("| model | dtype | outputs | losses | box | score | detections |\n" + "|---" * 7 + "|")
    equal = True
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            subprocess.run([*torch, "--write", str(file), name], check=True)
            arrays = np.load(file)
            for dtype in DTYPES:
                e = errors(name, arrays, dtype)
                found = f"{e.detections}, {e.others} others, in {len(arrays['images'])} images"
                cells = [f"{each:.0e}" for each in (e.output, e.loss, e.box, e.score)]
                print(f"| `{name}` | {dtype} | {' | '.join(cells)} | {found} |", flush=True)
                equal &= e.equal(dtype)
    return equal


def main() -> None:
    """Compares, or writes for the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter with torch")
    parser.add_argument("--first", default="", help="module that it imports first")
    parser.add_argument("--write", metavar="FILE", type=Path, help="only write the arrays of NAME")
    parser.add_argument("--write-tiny", action="store_true", help="write those of the tests")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    if args.torch:
        command = [args.torch, __file__, "--first", args.first]
        names = args.names or [name for name in NETS if name not in TINY]
        sys.exit(not compare(names, command))
    if args.first:
        importlib.import_module(args.first)
    if args.write_tiny:
        for name in args.names or TINY:
            write(name, DATA / f"{name}.npz")
    elif args.write and len(args.names) == 1:
        write(args.names[0], args.write)
    else:
        parser.error("give --torch PYTHON, --write-tiny, or --write FILE NAME")


if __name__ == "__main__":
    main()
