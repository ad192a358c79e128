"""Compares detectors with torchvision's: the same weights, boxes, scores and losses.

    python tools/detector_parity.py --torch PYTHON [NAME ...]   # all models by default
    PYTHON tools/detector_parity.py --write-tiny [NAME ...]     # tests/models/data/NAME.npz

PYTHON is an interpreter with torch and torchvision, which needs no JAX; the other one has convmesh
and needs no torch. For each model (see `torch_detectors.py`), torch makes random weights and
computes in float32 and in float64 the outputs before decoding, the parts of the loss with norms as
in evaluation, and the detections of 20 images, all kept in a file.

The table has the largest differences: of an output, relative to the largest; of a part of the loss,
relative to it, from torch's own outputs or, of two stages, from the images on; of a box, in pixels;
of a score; and how many detections of how many images were compared. A detection is another if
label or number differ, which in float32 rounding can do where a score or an overlap is just at a
limit. Exits with 1 where something differs by more than `LARGEST`.

`--first MODULE` is imported by PYTHON before torchvision, to prepare it on machines for which it
has no build. The tiny nets are torch's own classes at a few channels, judged in `make test`.
"""

import argparse
import dataclasses
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch_detectors import ALL, JUDGES, LARGE, MAX_BOXES, TINY
from weight_parity import DATA, error

# Of outputs, losses, boxes, scores, and of the part of the detections that only one side has.
LARGEST = {
    "float32": {"output": 1e-4, "loss": 1e-5, "box": 1e-3, "score": 1e-4, "others": 0.0},
    "float64": {"output": 1e-9, "loss": 1e-9, "box": 1e-6, "score": 1e-9, "others": 0.0},
}
# Two stages decide millions of times which of two proposals suppresses the other, at most 2,000 of
# an image: in float32, rounding changes a few of them, and what follows from these.
TWO_STAGES = {"float32": {"loss": 1e-3, "others": 0.02}, "float64": {}}
# What torch calls a part of the loss, and its name here.
LOSSES = {
    "classification": "class",
    "bbox_regression": "box",
    "bbox_ctrness": "centre",
    "loss_objectness": "object",
    "loss_rpn_box_reg": "proposal",
    "loss_classifier": "class",
    "loss_box_reg": "box",
}
CLASSES = {True: 3, False: 90}  # of tiny nets and others

# --- in the interpreter with torch ----------------------------------------------------------------


def write(name: str, file: Path) -> None:
    """Writes weights, images, boxes and results for the model `name`."""
    judge = JUDGES[name]
    net, images = judge.net()
    targets = judge.targets(CLASSES[name in TINY])
    arrays = {
        f"weight/{k}": v.numpy().astype(np.float16) for k, v in net.state_dict().items() if v.ndim
    }
    arrays["images"] = images.permute(0, 2, 3, 1).numpy()
    arrays |= padded(targets)
    for dtype in LARGEST:
        arrays |= losses_and_outputs(judge, net, images, targets, dtype)
        arrays |= detections(net, images, dtype)
    if name in TINY:  # a part of the outputs is enough, and small
        for key in [key for key in arrays if key.startswith(("output/", "found/float32"))]:
            array = arrays.pop(key)
            if key.startswith("output/float64"):
                arrays[key] = array[:1, ::5]
    np.savez_compressed(file, **arrays)


def padded(targets: list[dict]) -> dict[str, np.ndarray]:
    """Boxes, labels from 0 and which of them are valid, as a batch has them."""
    shape = (len(targets), MAX_BOXES)
    arrays = {
        "boxes": np.zeros((*shape, 4), np.float32),
        "labels": np.zeros(shape, np.int32),
        "valid": np.zeros(shape, bool),
    }
    for i, target in enumerate(targets):
        n = len(target["boxes"])
        arrays["boxes"][i, :n], arrays["valid"][i, :n] = target["boxes"].numpy(), True
        arrays["labels"][i, :n] = target["labels"].numpy() - 1
    return arrays


def losses_and_outputs(judge, net, images, targets, dtype: str) -> dict[str, np.ndarray]:
    """What the first images give in training, with norms as in evaluation."""
    import torch
    from torch import nn

    net = net.to(getattr(torch, dtype)).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    outputs, (module, named) = {}, judge.outputs(net)
    hook = module.register_forward_hook(lambda module, args, out: outputs.update(named(out)))
    images = list(images[: judge.batch].to(getattr(torch, dtype)) / 255)
    targets = [{**t, "boxes": t["boxes"].to(images[0].dtype)} for t in targets]
    with torch.no_grad():
        losses = net(images, targets)
    hook.remove()
    net.eval()
    arrays = {f"output/{dtype}/{k}": v.numpy() for k, v in outputs.items()}
    return arrays | {f"loss/{dtype}/{LOSSES[k]}": v.numpy() for k, v in losses.items()}


def detections(net, images, dtype: str) -> dict[str, np.ndarray]:
    """The boxes, scores and labels that are found in each image."""
    import torch

    arrays = {}
    with torch.no_grad():
        for i, image in enumerate(images):
            [found] = net([image.to(getattr(torch, dtype)) / 255])
            sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
            # Two of them in one place are not treated alike by all builds of torchvision.
            assert sides.numel() and sides.min() > 0, "a box without area"
            arrays |= {f"found/{dtype}/{i}/{k}": v.numpy() for k, v in found.items()}
    return arrays


# --- in the interpreter with convmesh -------------------------------------------------------------


@dataclasses.dataclass
class Errors:
    """The largest differences of one model in one dtype, see the docstring of this file."""

    dtype: str
    two_stages: bool
    output: float = 0.0
    loss: float = 0.0
    box: float = 0.0
    score: float = 0.0
    detections: int = 0
    others: int = 0

    def compare(self, found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
        """Adds the differences of the detections of one image.

        Rounding may exchange detections of almost the same score: each is compared with the nearest
        box of its label, of those not taken yet, and is another one if that is too far away.
        """
        boxes, scores, labels = (found[k][found["valid"]] for k in ("boxes", "scores", "labels"))
        free, most = np.ones(len(labels), bool), LARGEST[self.dtype]
        each = zip(*(wanted[k] for k in ("boxes", "scores", "labels")), strict=True)
        for box, score, label in each:
            box_apart, score_apart = np.abs(boxes - box).max(1), np.abs(scores - score)
            apart = np.where(free & (labels + 1 == label), box_apart + score_apart, np.inf)
            if apart.min(initial=np.inf) > most["box"] + most["score"]:
                continue
            i = int(apart.argmin())
            free[i] = False
            self.box = max(self.box, float(box_apart[i]))
            self.score = max(self.score, float(score_apart[i]))
        self.detections += len(wanted["labels"])
        self.others += max(len(labels), len(wanted["labels"])) - int((~free).sum())

    def equal(self) -> bool:
        """Whether nothing differs by more than it may."""
        limits = LARGEST[self.dtype] | (TWO_STAGES[self.dtype] if self.two_stages else {})
        found = dataclasses.asdict(self) | {"others": self.others / self.detections}
        return all(found[name] <= limit for name, limit in limits.items())  # not so for NaN


def errors(name: str, arrays: Any, dtype: str) -> Errors:
    """The errors of the model `name` in `dtype`."""
    import jax

    from convmesh.steps.step import predict_step

    model, task = model_and_task(name, arrays, dtype)
    variables = variables_of(name, model, arrays)
    batch, result = batch_of(arrays), Errors(dtype, hasattr(model, "two_stage"))
    images = task.pixels.normalise(batch.image, model.dtype)
    outputs = jax.jit(model.apply)(variables, images)
    wanted = [arrays[key] for key in arrays.files if key.startswith(f"output/{dtype}/")]
    wanted = [w.reshape(o.shape) for w, o in zip(wanted, outputs, strict=not result.two_stages)]
    result.output = np.max([error(np.asarray(o), w) for o, w in zip(outputs, wanted, strict=False)])
    if result.two_stages:
        numbers = losses_from_images(model, task, variables, batch)
    else:
        numbers = jax.jit(task.loss)(type(outputs)(*wanted), batch)[1]
    for key in arrays.files:
        if key.startswith(f"loss/{dtype}/"):
            ours = np.asarray(numbers[f"loss/{key.rpartition('/')[2]}"])
            result.loss = np.maximum(result.loss, error(ours, arrays[key]))  # NaN stays
    predict = jax.jit(lambda image: predict_step(variables, image, model, task))
    for i, image in enumerate(arrays["images"]):
        found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), predict(image[None]))
        keys = ("boxes", "scores", "labels")
        result.compare(found, {key: arrays[f"found/{dtype}/{i}/{key}"] for key in keys})
    return result


def model_and_task(name: str, arrays: Any, dtype: str) -> tuple[Any, Any]:
    """Ours, for COCO's 90 classes; 91 of torchvision, with background."""
    from convmesh.config import apply_overrides, defaults
    from convmesh.models.registry import make_model
    from convmesh.tasks.registry import make_task
    from convmesh.weights.preprocessing import preprocessing_of

    values = {"model.name": name, "data.image_size": arrays["images"].shape[1:3]}
    config = apply_overrides(defaults("detect"), {**preprocessing_of(name), **values})
    model = make_model(name, "detect", CLASSES[False], dtype)
    return model, make_task(config, CLASSES[False], model)


def variables_of(name: str, model: Any, arrays: Any) -> Any:
    """Ours from torch's weights, with our epsilon in frozen norms."""
    import jax

    from convmesh.weights.torch_names import from_torch, with_epsilon

    weights = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    epsilon = LARGE[name].options.get("frozen_epsilon")
    weights = weights if epsilon is None else with_epsilon(weights, epsilon)
    images = arrays["images"][:1].astype(model.dtype)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    variables, fit = from_torch(model.torch_names(), abstract, weights)
    fit.require_complete(name, name)
    return variables


def losses_from_images(model: Any, task: Any, variables: Any, batch: Any) -> dict[str, Any]:
    """The losses in training, with norms as in evaluation; all that there is is drawn."""
    import jax

    from convmesh.models.depth import ALL as NORMS
    from convmesh.models.depth import Frozen

    task = dataclasses.replace(task, anchors_drawn=ALL, boxes_drawn=ALL)
    choose = task.choose(batch, jax.random.key(0))

    @jax.jit
    def numbers(images: Any) -> Any:
        images = task.pixels.normalise(images, model.dtype)
        with Frozen(norms=NORMS).norms_as_in_evaluation():
            outputs, _ = model.apply(
                variables, images, train=True, mutable=["batch_stats"], choose=choose
            )
        return task.loss(outputs, batch)[1]

    return numbers(batch.image)


def batch_of(arrays: Any) -> Any:
    """The images and boxes whose losses torch has computed, as a batch."""
    from convmesh.distributed.batch import Batch

    count = len(arrays["boxes"])
    return Batch(
        image=arrays["images"][:count],
        index=np.arange(count),
        present=np.ones(count, bool),
        boxes=arrays["boxes"],
        labels=arrays["labels"],
        valid=arrays["valid"],
        crowd=np.zeros_like(arrays["valid"]),
        truncated=np.zeros(count, np.int32),
    )


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
            for dtype in LARGEST:
                e = errors(name, arrays, dtype)
                found = f"{e.detections}, {e.others} others, in {len(arrays['images'])} images"
                cells = [f"{each:.0e}" for each in (e.output, e.loss, e.box, e.score)]
                print(f"| `{name}` | {dtype} | {' | '.join(cells)} | {found} |", flush=True)
                equal &= e.equal()
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
        sys.exit(not compare(args.names or list(LARGE), command))
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
