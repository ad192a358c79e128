"""The cost of each way to shard, on 8 simulated devices: writes docs/costs.md.

    make costs          # about 15 minutes on 2 cores

Counts, bytes and memory come from the compiled programs. Nothing is timed: simulated devices share
a few cores.
"""

import os
import sys
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # affects only the machine code

from convmesh.distributed.devices import simulate_devices  # noqa: E402

simulate_devices(8)

import jax  # noqa: E402

from convmesh.bench.step import measure_step  # noqa: E402
from convmesh.config import apply_overrides, defaults  # noqa: E402
from convmesh.steps.noise import noise_setup  # noqa: E402
from convmesh.steps.setup import config_mesh  # noqa: E402

OUTPUT = Path(__file__).parent.parent / "docs" / "costs.md"
MESHES = [
    (1, 1, 1),
    (8, 1, 1),
    (8, 1, 1, True),
    (1, 4, 1),
    (1, 1, 4),
    (2, 4, 1),
    (2, 1, 4),
    (2, 2, 2),
    (2, 2, 2, True),
]


def recipe(name):
    """ResNet-50 at 224 px, or the demo's detector at 1,024 px."""
    if name == "ResNet-50":
        config = defaults("classify")
        changes = {"model.name": "resnet50", "train.batch_size": 16}
    else:
        config = defaults("detect")
        changes = {
            "model.name": "detector_nano",
            "data.image_size": (1024, 1024),
            "train.batch_size": 8,
            "data.max_boxes": 100,
        }
    return apply_overrides(config, changes)


def measure(name, layout):
    """The cost of a step of a recipe on the mesh `layout`, of as many devices as that has."""
    config = apply_overrides(
        recipe(name),
        dict(zip(("mesh.data", "mesh.spatial", "mesh.model"), layout, strict=False))
        | {"mesh.fsdp": len(layout) == 4},
    )
    count = layout[0] * layout[1] * layout[2]
    setup = noise_setup(config, config_mesh(config, jax.devices()[:count]))
    return measure_step(setup, steps=0)


def collectives(cost) -> str:
    """The collectives as `KIND along AXES: count, MB`."""
    return "<br>".join(
        f"{c.kind} {'+'.join(c.axes)}: {c.count}, {c.bytes / 1e6:.1f} MB" for c in cost.collectives
    )


def ratio(found, formula) -> str:
    """`MB (times the formula)`."""
    return f"{found / 1e6:.1f} ({found / formula:.2f})" if formula else "-"


def table(recipe_name) -> str:
    """A Markdown table with a row for each mesh."""
    lines = [
        "| data, spatial, model | halo, MB (/ formula) | gradients, MB (/ formula) | state, MB "
        "(/ one device) | temporaries, MB (/ one device) | collectives: count, MB |",
        "|---|---|---|---|---|---|",
    ]
    one = None
    for layout in MESHES:
        cost = measure(recipe_name, layout)
        one = one or cost
        name = ", ".join(map(str, layout[:3])) + (" fsdp" if len(layout) == 4 else "")
        cells = [
            name,
            ratio(cost.halo_bytes, cost.halo_formula),
            ratio(cost.gradient_bytes, cost.gradient_formula),
            f"{cost.state_bytes / 1e6:.1f} ({cost.state_bytes / one.state_bytes:.3f})",
            f"{cost.temporary_bytes / 1e6:.0f} ({cost.temporary_bytes / one.temporary_bytes:.3f})",
            collectives(cost) or "none",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    """Writes the page."""
    day = time.strftime("%Y-%m-%d")
    text = f"""# The cost of each way to shard

Written by `make costs` (`tools/cost_table.py`): JAX {jax.__version__}, simulated CPU devices,
float32, {day}. `convmesh bench step` prints the same, and the time, for any recipe and mesh.

All bytes are of one device. *Halo*: rows received from neighbours, and their ratio to a formula:
for each window (kernel - stride) rows x columns x channels x examples, once forward and once
backward. *Gradients*: what is summed over data and spatial, and its ratio to the bytes of the
parameters that the device computes with (with fsdp and spatial, these and 1 / data of them:
scattered over data, then summed over spatial). *State*: parameters, AdamW's two moments, the EMA.
*Temporaries*: what the compiled step allocates besides, mostly activations. The batch is the same
on every mesh.

## ResNet-50, 16 images of 224 x 224

{table("ResNet-50")}

## The demo's detector, 8 images of 1,024 x 1,024, at most 100 boxes each

{table("detector")}

How to read it: data alone communicates the least where the model fits a device. fsdp shards the
state, at the price of gathering every kernel. spatial shards the activations, with halos that are
small compared to them; where too few rows are left (the last stages), a layer is gathered. model
shards the parameters and the activations and gathers the channels at every convolution: the most
expensive, for fast links only.
"""
    OUTPUT.write_text(text)


if __name__ == "__main__":
    main()
