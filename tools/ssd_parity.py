"""Compares SSDLite and Faster R-CNN with torchvision's: same weights, same boxes, same losses.

    python tools/ssd_parity.py --torch PYTHON [NAME ...]   # all models by default
    PYTHON tools/ssd_parity.py --write-tiny NAME ...       # tests/models/data/NAME.npz

PYTHON is an interpreter with torch and torchvision, as in `weight_parity.py`. For each model, torch
makes random weights, with heads that find hundreds of boxes of different scores, of which many
suppress each other; and computes its raw outputs, its detections on 20 images, and its losses on
some of them with random boxes, with norms as in evaluation. The table has the largest difference of
a raw output, relative to the largest one, of a side of a box in pixels, of a score, and of a loss,
relative to it. Exits with 1 where one is too large, or too many detections differ.

The tiny nets are torch's own classes at a few channels, judged in `make test`.
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
from weight_parity import DATA, error, randomise

IMAGES, RAW, WITH_BOXES, MOST_BOXES = 20, 2, 4, 6
ALL = 10**7  # more than there are anchors or proposals
# Of raw outputs, boxes, scores, losses, and of the part of the detections that only one has.
LARGEST = {
    "float32": {"raw": 1e-4, "box": 1e-3, "score": 1e-4, "loss": 1e-5, "others": 0},
    "float64": {"raw": 1e-9, "box": 1e-6, "score": 1e-9, "loss": 1e-9, "others": 0},
}
# Two stages decide millions of times which of two proposals suppresses the other, at most 2,000 of
# an image: in float32, rounding changes a few of them, and what follows from these.
TWO_STAGES = {"float32": {"loss": 1e-3, "others": 0.02}, "float64": {}}

# --- in the interpreter with torch ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Judge:
    """A detector of torchvision, and how its outputs come to life.

    make: builds it. size: height and width of its images. live: see `ssd_live`. raw: see `ssd_raw`.
    images: on how many it finds boxes.
    """

    make: Callable[[], Any]
    size: tuple[int, int]
    live: Callable[[Any], list[tuple[Any, float, float, int]]]
    raw: Callable[[Any], tuple[Any, Callable]]
    images: int = IMAGES


def get_model(name: str):
    """The detector `name` of torchvision with random weights."""
    from torchvision.models import get_model

    return get_model(name, weights=None, weights_backbone=None)


def tiny_ssdlite():
    """Torchvision's SSDLite on MobileNetV3 at 8 to 32 channels, of three classes."""
    from functools import partial

    from torch import nn
    from torchvision.models.detection import ssdlite
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    rows = [
        (8, 3, 8, 8, False, "RE", 1),
        (8, 3, 16, 8, False, "RE", 2),
        (8, 5, 32, 8, True, "HS", 2),
        (8, 3, 16, 8, True, "HS", 1),
    ]
    blocks = [InvertedResidualConfig(*row, dilation=1, width_mult=1.0) for row in rows]
    features = MobileNetV3(blocks, last_channel=16, norm_layer=norm).features
    net = ssdlite.SSDLiteFeatureExtractorMobileNet(features, 3, norm, 1 / 64, 8)
    levels = 6
    head = ssdlite.SSDLiteHead([32, 48, 8, 8, 8, 8], [6] * levels, 4, norm)
    anchors = DefaultBoxGenerator([[2, 3]] * levels, min_ratio=0.2, max_ratio=0.95)
    options = {"score_thresh": 0.001, "nms_thresh": 0.55, "topk_candidates": 300}
    halves = [0.5, 0.5, 0.5]
    size = (40, 24)  # width and height here
    return SSD(net, anchors, size, 4, halves, halves, head, detections_per_img=300, **options)


def faster_rcnn(size):
    """Torchvision's Faster R-CNN for images of that size."""
    from torchvision.models import get_model
    from torchvision.ops import poolers

    poolers.roi_align = roi_align
    options = {"min_size": min(size), "max_size": max(size)}
    net = get_model("fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None, **options)
    return learning_from_all(net)


def tiny_faster_rcnn():
    """Torchvision's Faster R-CNN of three classes, on a ResNet of 4 channels in place of 64."""
    from torchvision.models.detection import faster_rcnn
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import poolers
    from weight_parity import tiny_resnet

    poolers.roi_align = roi_align
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(tiny_resnet("Bottleneck"), layers, [16, 32, 64, 128], 4)
    net = faster_rcnn.FasterRCNN(
        backbone,
        min_size=32,
        max_size=64,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=60,
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=100,
        box_head=faster_rcnn.TwoMLPHead(4 * 49, 8),
        box_predictor=faster_rcnn.FastRCNNPredictor(8, 4),
    )
    return learning_from_all(net)


def learning_from_all(net):
    """Draws all anchors and proposals for the losses, so that nothing is random.

    And makes labels of the type of the anchors: in float32, they would make the loss float32.
    """
    for part in (net.rpn, net.roi_heads):
        part.fg_bg_sampler.batch_size_per_image = ALL
    assign = net.rpn.assign_targets_to_anchors

    def assign_in_type(anchors, targets):
        labels, boxes = assign(anchors, targets)
        return [label.to(anchors[0].dtype) for label in labels], boxes

    net.rpn.assign_targets_to_anchors = assign_in_type
    return net


def roi_align(features, boxes, output_size, spatial_scale, sampling_ratio):
    """As torchvision's operator, which its Python form is not at the borders."""
    import torch

    sizes, count = features.shape[-2:], output_size[0] * sampling_ratio

    def taps(start, end, size):
        step = (end - start).clamp(min=1.0)[:, None] / count
        at = start[:, None] + (torch.arange(count) + 0.5).to(features.dtype) * step
        outside = (at < -1) | (at > size)
        at = at.clamp(0, size - 1)
        low = at.floor().long()
        return low, (low + 1).clamp(max=size - 1), at - low, outside

    rows_first = features.permute(0, 2, 3, 1).contiguous()
    found = [features.new_zeros(0, features.shape[1], *output_size)]
    for some in boxes.split(50):
        image = some[:, 0].long()[:, None, None]
        x0, y0, x1, y1 = (some[:, 1:] * spatial_scale).T
        top, bottom, down, out_y = (each[:, :, None] for each in taps(y0, y1, sizes[0]))
        left, right, across, out_x = (each[:, None] for each in taps(x0, x1, sizes[1]))
        down, across = down[..., None], across[..., None]
        above = rows_first[image, top, left] * (1 - across)
        above += rows_first[image, top, right] * across
        below = rows_first[image, bottom, left] * (1 - across)
        below += rows_first[image, bottom, right] * across
        x = (above * (1 - down) + below * down).masked_fill((out_y | out_x)[..., None], 0)
        x = torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), sampling_ratio)
        found.append(x)
    return torch.cat(found)


def faster_rcnn_live(net):
    """As `ssd_live`; the classifier of the second stage first."""
    box, head = net.roi_heads.box_predictor, net.rpn.head
    columns = box.cls_score.out_features
    wide, background = (3.0, 10.0) if columns > 10 else (2.0, 2.0)
    return [
        (box.cls_score, wide, background, columns),
        (box.bbox_pred, 1.0, 0.0, 4),
        (head.cls_logits, 2.0, 0.0, 3),
        (head.bbox_pred, 0.3, 0.0, 4),
    ]


def ssd_raw(net):
    """(module, function that makes named raw outputs [batch, n, ...] of its output)."""
    return net.head, dict


def faster_rcnn_raw(net):
    """As `ssd_raw`, of the first stage."""
    import torch

    def flat(levels, columns):
        levels = [x.permute(0, 2, 3, 1).reshape(len(x), -1, columns) for x in levels]
        return torch.cat(levels, 1)

    return net.rpn.head, lambda out: {"object": flat(out[0], 1)[..., 0], "anchor": flat(out[1], 4)}


def ssd_live(net):
    """(last layer, deviation of its outputs, bias of background, columns of an anchor)."""
    classes = net.head.classification_head
    columns = classes.num_columns
    wide, background = (3.0, 20.5) if columns > 10 else (2.0, 9.5)
    found = [(block[1], wide, background, columns) for block in classes.module_list]
    return found + [(block[1], 0.3, 0.0, 4) for block in net.head.regression_head.module_list]


JUDGES = {
    "ssdlite320_mobilenet_v3_large": Judge(
        lambda: get_model("ssdlite320_mobilenet_v3_large"), (320, 320), ssd_live, ssd_raw
    ),
    "fasterrcnn_resnet50_fpn": Judge(
        lambda: faster_rcnn((256, 320)), (256, 320), faster_rcnn_live, faster_rcnn_raw
    ),
}
TINY = {
    "tiny_ssdlite": Judge(tiny_ssdlite, (24, 40), ssd_live, ssd_raw, images=2),
    "tiny_faster_rcnn": Judge(
        tiny_faster_rcnn, (32, 64), faster_rcnn_live, faster_rcnn_raw, images=2
    ),
}


def come_alive(net, images, layers) -> None:
    """Random weights, and outputs of the last layers with the wanted deviation."""
    import torch
    from torch import nn

    class Raw(nn.Module):
        """The net without what comes before and after its layers."""

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            levels = list(net.backbone(images).values())
            return net.head(levels) if hasattr(net, "head") else levels

    found = {}
    randomise(Raw(), images)
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: found.update({layer: out}))
        for layer, *_ in layers
    ]
    with torch.no_grad():
        net(list(images))
        for layer, deviation, background, columns in layers:
            scale = deviation / found[layer].std()
            layer.weight *= scale
            layer.bias *= scale
            layer.bias[::columns] += background
            for value in (layer.weight, layer.bias):
                value.copy_(value.half().float())
    for hook in hooks:
        hook.remove()
    net.eval()


def smooth_images(count: int, size: tuple[int, int]):
    """Images of some structure: uint8 [count, 3, height, width]."""
    import torch

    coarse = torch.rand(count, 3, *(max(2, side // 16) for side in size))
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    images = images + 0.1 * torch.randn(images.shape)
    return (255 * images.clamp(0, 1)).round().to(torch.uint8)


def random_targets(count: int, size: tuple[int, int], classes: int):
    """Boxes [count, MOST_BOXES, 4] and labels from 1, and how many of each image are valid."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6, (count, MOST_BOXES, 2)) * size[::-1]
    side = rng.uniform(0.1, 0.4, (count, MOST_BOXES, 2)) * size[::-1]
    boxes = np.concatenate([corner, corner + side], -1).astype(np.float32)
    labels = rng.integers(1, classes + 1, (count, MOST_BOXES))
    return boxes, labels, np.array([MOST_BOXES, 0, 1, *[3] * count])[:count]


def write(judge: Judge, file: Path, tiny: bool) -> None:
    """Writes weights, images, raw outputs, detections and losses."""
    import torch

    torch.manual_seed(0)
    net = judge.make().eval()
    images = smooth_images(judge.images, judge.size)
    come_alive(net, images[:4].float() / 255, judge.live(net))
    arrays = {f"weight/{k}": v.numpy() for k, v in net.state_dict().items()}
    arrays = {key: value.astype(np.float16) for key, value in arrays.items() if value.ndim}
    arrays["images"] = images.permute(0, 2, 3, 1).numpy()
    classes = judge.live(net)[0][-1] - 1
    count = min(WITH_BOXES, judge.images)
    boxes, labels, valid = random_targets(count, judge.size, classes)
    arrays |= {"boxes": boxes, "labels": labels.astype(np.int32) - 1, "valid": valid}
    for dtype in ("float64",) if tiny else LARGEST:
        net = net.to(getattr(torch, dtype))
        inputs = list(images.to(getattr(torch, dtype)) / 255)
        arrays |= outputs_of(net, judge.raw(net), inputs, dtype, 1 if tiny else RAW)
        targets = [
            {"boxes": torch.tensor(b[:n]).to(inputs[0].dtype), "labels": torch.tensor(t[:n])}
            for b, t, n in zip(boxes, labels, valid, strict=True)
        ]
        losses = losses_of(net, inputs[:count], targets)
        arrays |= {f"loss/{dtype}/{name}": loss.numpy() for name, loss in losses.items()}
    if tiny:
        arrays = {k: v.astype(np.float32) if "found/" in k else v for k, v in arrays.items()}
    np.savez_compressed(file, **arrays)


def outputs_of(net, source, images, dtype: str, raw: int) -> dict[str, np.ndarray]:
    """Detections of all images, and raw outputs of the first ones."""
    import torch

    found = {}
    module, named = source
    hook = module.register_forward_hook(lambda module, args, out: found.update(named(out)))
    with torch.no_grad():
        net(images[:raw])
        arrays = {f"raw/{dtype}/{name}": value.numpy() for name, value in found.items()}
        hook.remove()
        for i, image in enumerate(images):
            [detections] = net([image])
            for name, value in detections.items():
                arrays[f"found/{dtype}/{i}/{name}"] = value.numpy()
    return arrays


def losses_of(net, images, targets):
    """The losses in training, but with norms as in evaluation."""
    import torch
    from torch import nn

    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        losses = net(images, targets)
    net.eval()
    return losses


# --- in the interpreter with convmesh -------------------------------------------------------------

# By the task of a model: ours of torch's raw outputs, and of its losses.
OUTPUTS = {
    "ssd": {"cls_logits": "class_logits", "bbox_regression": "offsets"},
    "faster_rcnn": {"object": "object_logits", "anchor": "anchor_offsets"},
}
LOSSES = {
    "ssd": {"classification": "class", "bbox_regression": "box"},
    "faster_rcnn": {
        "loss_objectness": "object",
        "loss_rpn_box_reg": "proposal",
        "loss_classifier": "class",
        "loss_box_reg": "box",
    },
}


def errors(name: str, file: Path, dtype: str) -> dict[str, float]:
    """The errors of the model `name`, by what is compared."""
    import jax

    from convmesh.config import apply_overrides, defaults
    from convmesh.models.registry import make_model
    from convmesh.tasks.registry import make_task
    from convmesh.weights.preprocessing import preprocessing_of
    from convmesh.weights.torch_names import from_torch

    arrays = np.load(file)
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    images = arrays["images"]
    config = apply_overrides(
        defaults("detect"),
        {**preprocessing_of(name), "model.name": name, "data.image_size": images.shape[1:3]},
    )
    model = make_model(name, "detect", JUDGED_CLASSES, dtype)
    task = make_task(config, JUDGED_CLASSES, model)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images[:1].astype(dtype))
    variables, fit = from_torch(model.torch_names(), abstract, state)
    fit.require_complete(str(file), name)

    @jax.jit
    def forward(images: Any) -> Any:
        outputs = model.apply(variables, task.pixels.normalise(images, dtype))
        return outputs, task.predict(outputs)

    outputs, _ = forward(images[:RAW])
    raw = [
        error(np.asarray(getattr(outputs, ours)), arrays[f"raw/{dtype}/{theirs}"])
        for theirs, ours in OUTPUTS[model.detection].items()
    ]
    found = {"raw": max(raw), "box": 0.0, "score": 0.0, "found": 0, "others": 0}
    for i in range(len(images)):
        _, detections = forward(images[i : i + 1])
        wanted = {k: arrays[f"found/{dtype}/{i}/{k}"] for k in ("boxes", "scores", "labels")}
        box, score, others = detection_errors(detections, wanted, dtype)
        found["others"] += others
        found["box"], found["score"] = max(found["box"], box), max(found["score"], score)
        found["found"] += len(wanted["scores"])
    numbers = losses(model, task, variables, arrays)
    lost = [
        error(np.asarray(numbers[f"loss/{ours}"]), arrays[f"loss/{dtype}/{theirs}"])
        for theirs, ours in LOSSES[model.detection].items()
    ]
    found["others"] /= found["found"]
    return found | {"loss": max(lost), "two_stage": getattr(model, "two_stage", False)}


def losses(model: Any, task: Any, variables: Any, arrays: Any) -> dict[str, Any]:
    """The losses in training, but with norms as in evaluation; all that there is is drawn."""
    import jax

    from convmesh.models.depth import ALL as NORMS
    from convmesh.models.depth import Frozen

    batch, options = batch_of(arrays), {}
    if getattr(model, "two_stage", False):
        task = dataclasses.replace(task, anchors_drawn=ALL, boxes_drawn=ALL)
        options = {"choose": task.choose(batch, jax.random.key(0))}

    @jax.jit
    def numbers(images: Any) -> Any:
        images = task.pixels.normalise(images, model.dtype)
        with Frozen(norms=NORMS).norms_as_in_evaluation():
            outputs, _ = model.apply(
                variables, images, train=True, mutable=["batch_stats"], **options
            )
        return task.loss(outputs, batch)[1]

    return numbers(arrays["images"][: len(arrays["boxes"])])


JUDGED_CLASSES = 90  # with background, COCO's 91 of torchvision


def detection_errors(found: Any, wanted: Any, dtype: str) -> tuple[float, float, int]:
    """The largest difference of a box and of a score, and how many detections only one side has.

    Rounding may exchange detections of almost the same score: each is compared with the nearest
    box of its label, of those not taken yet, and is another one if that is too far away.
    """
    [valid] = np.asarray(found["valid"])
    boxes, scores, labels = (np.asarray(found[k])[0][valid] for k in ("boxes", "scores", "labels"))
    worst, free, most = [(0.0, 0.0)], np.ones(len(labels), bool), LARGEST[dtype]
    for box, score, label in zip(*(wanted[k] for k in ("boxes", "scores", "labels")), strict=True):
        far = np.abs(boxes - box).max(1) + np.abs(scores - score)
        far = np.where(free & (labels + 1 == label), far, np.inf)
        if far.min(initial=np.inf) <= most["box"] + most["score"]:
            i = int(far.argmin())
            free[i] = False
            worst.append((float(np.abs(boxes[i] - box).max()), float(abs(scores[i] - score))))
    others = max(len(labels), len(wanted["labels"])) - (len(worst) - 1)
    return max(box for box, _ in worst), max(score for _, score in worst), others


def batch_of(arrays: Any) -> Any:
    """The batch of the boxes that torch's losses are of."""
    from convmesh.distributed.batch import Batch

    boxes, labels = arrays["boxes"], arrays["labels"]
    valid = np.arange(boxes.shape[1]) < arrays["valid"][:, None]
    return Batch(
        image=None,
        index=np.arange(len(boxes)),
        present=np.ones(len(boxes), bool),
        boxes=boxes,
        labels=labels,
        valid=valid,
        crowd=np.zeros_like(valid),
        truncated=np.zeros(len(boxes), np.int32),
    )


def compare(names: list[str], torch: list[str]) -> bool:
    """Prints a row for each model and type; whether all are equal."""
    import jax

    jax.config.update("jax_enable_x64", True)
    print("| model | type | raw outputs | boxes | scores | detections | losses |", flush=True)
    print("|---|---|---|---|---|---|---|")
    equal = True
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            subprocess.run([*torch, "--write", str(file), name], check=True)
            for dtype, largest in LARGEST.items():
                found = errors(name, file, dtype)
                cells = [f"{found[key]:.0e}" for key in ("raw", "box", "score")]
                several = f"{found['found']}, {100 * found['others']:.1g}% others"
                cells = [f"`{name}`", dtype, *cells, several, f"{found['loss']:.0e}"]
                largest = {**largest, **(TWO_STAGES[dtype] if found["two_stage"] else {})}
                print("| " + " | ".join(cells) + " |", flush=True)
                equal &= all(found[key] <= most for key, most in largest.items())
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
        sys.exit(not compare(args.names or list(JUDGES), command))
    if args.first:
        importlib.import_module(args.first)
    if args.write_tiny:
        for name in args.names or TINY:
            write(TINY[name], DATA / f"{name}.npz", tiny=True)
    elif args.write and len(args.names) == 1:
        write(JUDGES[args.names[0]], args.write, tiny=False)
    else:
        parser.error("give --torch PYTHON, --write-tiny, or --write FILE NAME")


if __name__ == "__main__":
    main()
