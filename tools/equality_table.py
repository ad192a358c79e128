"""Equality with one device, on every mesh, with and without fsdp: writes docs/equality.md.

    make proof                                              # about half an hour on 2 cores
    PYTHONPATH=tests python tools/equality_table.py NAME ...    # real models on (2, 2, 2)

`make test` runs a part of it. The reference is the same program on one device, in float64; a cell
is the largest difference in any leaf, relative to that leaf's largest value.
"""

import os
import sys
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

from convmesh.distributed.devices import simulate_devices  # noqa: E402

simulate_devices(8)

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import equality  # noqa: E402
from ops import test_conv, test_pool  # noqa: E402

from convmesh.steps.mesh_check import EXACT, differences  # noqa: E402

OUTPUT = Path(__file__).parent.parent / "docs" / "equality.md"
OPS = {"convolutions": test_conv, "pooling and up-sampling": test_pool}
TINY = (
    "tiny small_cnn",
    "tiny resnet",
    "tiny resnext",
    "tiny regnet",
    "tiny detector",
    "tiny csp detector",
    "tiny resnet detector",
    "tiny retinanet",
    "tiny retinanet v2",
    "tiny fcos",
    "tiny ssdlite",
    "tiny faster rcnn",
)
FULL_SIZE = ("small_cnn", "resnet18", "detector_nano")


def worst(result, reference) -> float:
    """The largest difference in any leaf, relative to its scale."""
    return max(d.error for d in differences(result, reference))


def rows(layouts):
    """(name, {layout: worst difference}) for everything that is compared on `layouts`."""
    every = set(layouts) == set(equality.ALL_LAYOUTS)
    if every:
        for name, module in OPS.items():
            reference = module.everything((1, 1, 1))
            yield name, {layout: worst(module.everything(layout), reference) for layout in layouts}
    for name in TINY if every else FULL_SIZE:
        found = {}
        for layout in layouts:
            result = equality.on_mesh(name, layout)
            found[layout] = worst(result, equality.one_device(name))
            print(f"{name} {layout}: {found[layout]:.1e}", file=sys.stderr, flush=True)
        yield name, found


def table(layouts) -> str:
    """A Markdown table: a row for each layout, a column for each thing that is compared."""
    columns = list(rows(layouts))
    lines = ["| data, spatial, model | " + " | ".join(name for name, _ in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for layout in layouts:
        cells = [
            f"{found[layout]:.0e}" + (" **!**" if found[layout] > EXACT else "")
            for _, found in columns
        ]
        name = ", ".join(map(str, layout[:3])) + (" fsdp" if len(layout) == 4 else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare_real(names) -> None:
    """Prints a line for each model of these names; exits with 1 if one is not equal."""
    found = []
    for name in names:
        start, layout = time.time(), (2, 2, 2)
        found.append(worst(equality.on_mesh(name, layout), equality.one_device(name)))
        equality.one_device.cache_clear()
        jax.clear_caches()
        print(f"| {name} | {found[-1]:.0e} | {time.time() - start:.0f} s", flush=True)
    sys.exit(not max(found) <= EXACT)


def main() -> None:
    """Writes the tables; exits with 1 if anything is not equal."""
    if sys.argv[1:]:
        compare_real(sys.argv[1:])
    start = time.time()
    day = time.strftime("%Y-%m-%d")
    tables = [table(equality.ALL_LAYOUTS), table(equality.WHOLE_LAYOUTS)]
    minutes = (time.time() - start) / 60
    text = f"""# Equal to one device

Written by `make proof` (`tools/equality_table.py`): float64, 8 simulated CPU devices, JAX
{jax.__version__}, {day}, {minutes:.0f} minutes. A cell is the worst difference from the one-device
result, relative to the largest value of its leaf; at most {EXACT:.0e} counts as equal.

Operations: results and both gradients of each case of `tests/ops`. Tiny nets: loss, every gradient
leaf, batch statistics, parameters, momentum and EMA after 3 SGD steps with clipping.

{tables[0]}

Full-size nets, in the same way:

{tables[1]}
"""
    OUTPUT.write_text(text)
    print(text)
    sys.exit("**!**" in text)


if __name__ == "__main__":
    main()
