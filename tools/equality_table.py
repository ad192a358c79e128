"""Equality with one device, on every mesh, with and without fsdp: writes docs/equality.md.

    make proof                                              # over an hour on 2 cores
    PYTHONPATH=tests python tools/equality_table.py NAME ...    # real models on (2, 2, 2)
    PYTHONPATH=tests python tools/equality_table.py --kept      # what a stopped proof has measured

`make test` runs a part of it. The reference is the same program on one device, in float64; a cell
is the largest difference in any leaf, relative to that leaf's largest value.
"""

import functools
import hashlib
import json
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
KEPT = sys.argv[1:] == ["--kept"]
BY_NAME = "## Real nets by name"
CELLS = OUTPUT.parent.parent / "build" / "equality.jsonl"
OPS = {
    "convolutions": functools.partial(test_conv.everything, test_conv.CASES),
    "pooling and up-sampling": test_pool.everything,
}
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


@functools.cache
def source_digest() -> str:
    """A digest of the program and of the cases: a cell of other sources is not taken over."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(jax.__version__.encode())
    for file in sorted([*root.glob("src/**/*.py"), root / "tests/equality.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def measured(name: str, layout, compute) -> float | None:
    """`compute()`, kept in build/, so that a stopped `make proof` goes on where it was."""
    key = [source_digest(), name, list(layout)]
    known = [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []
    for *old, error in known:
        if old == key or (KEPT and old[1:] == key[1:]):
            return error
    if KEPT:
        return None
    error = compute()
    CELLS.parent.mkdir(exist_ok=True)
    with CELLS.open("a") as file:
        print(json.dumps([*key, error]), file=file)
    print(f"{name} {layout}: {error:.1e}", file=sys.stderr, flush=True)
    return error


def cells(name: str, difference, layouts):
    """{layout: difference(layout)}"""
    return {to: measured(name, to, functools.partial(difference, to)) for to in layouts}


def rows(layouts):
    """(name, {layout: worst difference}) for everything that is compared on `layouts`."""
    every = set(layouts) == set(equality.ALL_LAYOUTS)
    if every:
        for name, everything in OPS.items():
            of = functools.cache(everything)
            difference = lambda layout, of=of: worst(of(layout), of((1, 1, 1)))  # noqa: E731
            yield name, cells(name, difference, layouts)
    for name in TINY if every else FULL_SIZE:
        difference = lambda layout, name=name: worst(  # noqa: E731
            equality.on_mesh(name, layout), equality.one_device(name)
        )
        yield name, cells(name, difference, layouts)
        jax.clear_caches()


def shown_cell(error: float | None) -> str:
    """A cell of a table; "-" where it was not measured."""
    return "-" if error is None else f"{error:.0e}" + (" **!**" if error > EXACT else "")


def table(layouts) -> str:
    """A Markdown table: a row for each thing that is compared, a column for each layout."""
    titles = [" ".join(map(str, to[:3])) + (" fsdp" if len(to) == 4 else "") for to in layouts]
    lines = ["| data spatial model | " + " | ".join(titles) + " |"]
    lines.append("|---" * (len(titles) + 1) + "|")
    for name, found in rows(layouts):
        shown = [shown_cell(found[to]) for to in layouts]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
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


def kept_by_hand() -> str:
    """The part of the page that this tool does not write: models that were compared by name."""
    return OUTPUT.read_text()[OUTPUT.read_text().index(BY_NAME) :]


def main() -> None:
    """Writes the tables; exits with 1 if anything is not equal."""
    if sys.argv[1:] and not KEPT:
        compare_real(sys.argv[1:])
    day = time.strftime("%Y-%m-%d")
    tables = [table(equality.ALL_LAYOUTS), table(equality.WHOLE_LAYOUTS)]
    text = f"""# Equal to one device

Written by `make proof` (`tools/equality_table.py`): float64, 8 simulated CPU devices, JAX
{jax.__version__}, {day}. A cell is the worst difference from the one-device result, relative to the
largest value of its leaf; at most {EXACT:.0e} counts as equal; `-` was not run.

Operations: results and both gradients of each case of `tests/ops`. Tiny nets: loss, every gradient
leaf, batch statistics, parameters, momentum and EMA after 3 SGD steps with clipping.

{tables[0]}

Full-size nets, in the same way:

{tables[1]}

{kept_by_hand()}"""
    OUTPUT.write_text(text)
    print(text)
    sys.exit("**!**" in "".join(tables))


if __name__ == "__main__":
    main()
