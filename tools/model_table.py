"""Parameters and FLOPs of the dense detectors, and the classifiers' names: in docs/models.md.

    make models         # 15 seconds

Nothing is compiled or run: the models are traced, and `convmesh.programs.flops` counts.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from convmesh.geometry import grid_points
from convmesh.models.registry import MODELS, make_model
from convmesh.programs.flops import flops

OUTPUT = Path(__file__).parent.parent / "docs" / "models.md"
CLASSES = 80
SIZES = (224, 640)
DENSE = "convmesh.models.detector"
BY_HAND = "## Torchvision's detectors"  # the first section of the page that is not written here
FOR = {
    "detector_nano": "CPUs; the demo",
    "detector_small": "CPUs and GPUs; `configs/detect.py`",
    "detector_medium": "GPUs and TPUs; `configs/coco.py`",
    "detector_large": "GPUs and TPUs; `configs/coco_pod.py`",
    "detector_resnet50": "ImageNet's detection set; `configs/imagenet_det.py`",
    "detector_resnet50_p7": "the same, for large images",
    "detector_tiny": "tests",
}


def traced(model, size: int):
    """Shapes of the variables, and GFLOP of the forward pass, for an image of `size` x `size`."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return variables, flops(jax.make_jaxpr(model.apply)(variables, image).jaxpr) / 1e9


def millions(tree) -> str:
    """Number of elements in a tree of arrays, in millions."""
    return f"{sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6:.2f}"


def row(name: str) -> str:
    """A row of the table."""
    model = make_model(name, "detect", CLASSES, jnp.float32)
    (variables, small), (_, large) = (traced(model, size) for size in SIZES)
    parameters = variables["params"]
    parts = [millions(parameters[part]) for part in ("backbone", "pyramid", "head")]
    points = [f"{len(grid_points((size, size), model.strides)[0]):,}" for size in SIZES]
    cells = [
        f"`{name}`",
        FOR[name],
        f"**{millions(parameters)}**",
        *parts,
        f"{small:.2f}",
        f"{large:.1f}",
        f"{model.strides[0]} to {model.strides[-1]}",
        *points,
    ]
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """A Markdown table with a row for each detector."""
    sizes = [f"{size} x {size}" for size in SIZES]
    titles = ["model", "for", "parameters, M", "backbone", "pyramid", "head"]
    titles += [f"GFLOP at {size}" for size in sizes]
    titles += ["strides", *(f"points at {size}" for size in sizes)]
    names = [name for name, (_, module, _) in MODELS.items() if module == DENSE]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *map(row, names)])


def main() -> None:
    """Writes the page."""
    text = f"""# Detectors and classifiers

One dense detector in several sizes: `--config.model.name=NAME`. The table is written by `make
models` (`tools/model_table.py`), for {CLASSES} classes. GFLOP: multiplications and additions (a
multiply-add is two) of the convolutions of one image's forward pass, those on padding included; a
training step is three times that. How accurate a model is, where it was measured, is in the recipes
and in [results.md](results.md).

{table()}

- **Backbone**: `nano`, `small` and `tiny` are plain residual stages behind one convolution of 6 x 6
  that goes to stride 4, for CPUs. `medium` and `large` are cross-stage partial stages (CSP, arXiv
  1911.11929) of dense 3 x 3 convolutions, behind two convolutions of stride 2. `resnet50` is
  ResNet-50 v1.5 with the names and shapes of the classifier `resnet50`, so that its weights fit
  `backbone`.
- **Pyramid**: path aggregation (arXiv 1803.01534) at one width for all levels, mixed by 3 x 3
  convolutions, in `medium` and `large` by CSP blocks. `resnet50_p7` adds two levels, of strides 64
  and 128, for objects of more than some 900 pixels: a side is at most 15 strides from its point.
- **Head**: two branches of two convolutions, shared by the levels. In all sizes class and box
  confidence are initialised to 0.01, side distances to two strides.
- `model.norm_group`, `model.remat` (which recomputes the blocks of the stages, and the CSP blocks
  of the pyramid, in the backward pass) and `precision` apply to all of them.
- `--config.model.backbone=NAME` gives a detector the backbone of a classifier in place of its own,
  with the names and shapes of that classifier, so that its weights fit. Pyramid and head stay.

Parameters are named `backbone`, `pyramid` and `head`; in the backbone `stem`, `downN` and
`stageN_blockM`; stage 1 is the one of stride 4. A CSP stage is one block.

Images of any size work; rows and columns at the end that fill no cell of 4 x 4 pixels are ignored,
as far as they lie outside the windows of the cells before them.

To add a size: a line in [`models/detector.py`](../src/convmesh/models/detector.py), a line in
[`models/registry.py`](../src/convmesh/models/registry.py), a line in `tools/model_table.py`.

## The classifiers

`--config.model.name=NAME`, or `model.backbone=NAME` of a detector; all but `small_cnn` are those of
torchvision under its names, with its numbers of parameters (the Lite family is timm's
`tf_efficientnet_lite0` to `4`):

| family | names |
|---|---|
| ResNet v1.5 | `resnet18`, `resnet34`, `resnet50`, `resnet101`, `resnet152` |
| ResNeXt | `resnext50_32x4d`, `resnext101_32x8d`, `resnext101_64x4d` |
| Wide ResNet | `wide_resnet50_2`, `wide_resnet101_2` |
| RegNetY | `regnet_y_400mf`, `regnet_y_800mf`, `regnet_y_1_6gf`, `regnet_y_3_2gf`, `regnet_y_8gf` |
| MobileNet | `mobilenet_v2`, `mobilenet_v3_small`, `mobilenet_v3_large` |
| EfficientNet | `efficientnet_b0` to `efficientnet_b4`, `efficientnet_v2_s`, `efficientnet_v2_m` |
| EfficientNet-Lite | `efficientnet_lite0` to `efficientnet_lite4` |
| ConvNeXt | `convnext_tiny`, `convnext_small`, `convnext_base`, `convnext_large` |

None has dropout or stochastic depth. EfficientNet-Lite pads as TensorFlow does; the others as
torch. On a CPU a depthwise convolution is a sum of shifted products, since XLA's own is several
times slower ([`ops/local.py`](../src/convmesh/ops/local.py)).

With the same weights each returns torchvision's logits: `tools/weight_parity.py --torch PYTHON`
compares all of them, `make test` tiny nets of each family.
"""
    _, heading, rest = OUTPUT.read_text().partition(BY_HAND)
    OUTPUT.write_text(f"{text}\n{heading}{rest}")


if __name__ == "__main__":
    main()
