"""What compiled programs for TPUs and GPUs contain, with none at hand: docs/accelerators.md.

    python tools/accelerator_table.py            # about half an hour of CPU time; needs the extras
    python tools/accelerator_table.py NAME ...   # tpu and plan-cuda. Only these rows again

Rows that an earlier call has compiled from the same sources are kept in build/.
"""

import hashlib
import json
import re
import sys
import time
from pathlib import Path

import convmesh
from convmesh.plan.topology import open_topology

ROOT = Path(__file__).parent.parent
OUTPUT, ROWS = ROOT / "docs" / "accelerators.md", ROOT / "build" / "accelerators.jsonl"
POD = ["train.batch_size=8192"]
COCO = ["mesh.data=-1"]

# name: (recipe, topology, overrides)
PROGRAMS = {
    "demo, 4 TPU chips": ("demo", "v5e:2x2", ["train.batch_size=16"]),
    "demo, fsdp, 16 TPU chips": (
        "demo",
        "v5e:4x4",
        ["train.batch_size=128", "mesh.fsdp=true", "model.norm_group=0"],
    ),
    "demo, rows over 2, 16 TPU chips": (
        "demo",
        "v5e:4x4",
        ["train.batch_size=32", "mesh.data=8", "mesh.spatial=2"],
    ),
    "demo, rows over 2, 256 TPU chips": (
        "demo",
        "v5e:16x16",
        ["train.batch_size=512", "mesh.data=128", "mesh.spatial=2"],
    ),
    "ResNet-50, ghost norms, 256 TPU chips": ("imagenet_resnet50", "v5e:16x16", POD),
    "ResNet-50, ghost norms, 16 TPU chips": (
        "imagenet_resnet50",
        "v5e:4x4",
        ["train.batch_size=512"],
    ),
    "ResNet-50, global norms, 256 TPU chips": (
        "imagenet_resnet50",
        "v5e:16x16",
        [*POD, "model.norm_group=0"],
    ),
    "ResNet-50, 8 H100": ("imagenet_resnet50", "h100:8", ["train.batch_size=256"]),
    "COCO, 8 H100": ("coco", "h100:8", [*COCO, "train.batch_size=256"]),
    "COCO, 2 x 8 H100, all axes, fsdp": (
        "coco",
        "2xh100:8",
        ["mesh.data=4", "mesh.spatial=2", "mesh.model=2", "mesh.fsdp=true", "train.batch_size=128"],
    ),
    "COCO, 4 TPU chips": ("coco", "v5e:2x2", [*COCO, "train.batch_size=128"]),
    "COCO, 256 TPU chips": ("coco", "v5e:16x16", [*COCO, "train.batch_size=8192"]),
    "COCO, rows over 2, 4 TPU chips": (
        "coco",
        "v5e:2x2",
        ["mesh.data=2", "mesh.spatial=2", "train.batch_size=128"],
    ),
}
_SORT = re.compile(r"= \(?\w+\[([\d,]*)\][^=]* sort\(.*dimensions=\{(\d+)\}")


def widest_sort(text: str) -> int:
    """The longest dimension that a program sorts; 0 if it sorts nothing."""
    found = [0]
    for sizes, dimension in _SORT.findall(text):
        found.append(int(sizes.split(",")[int(dimension)]))
    return max(found)


def row(name: str) -> dict:
    """What the program of that name contains."""
    recipe, topology, overrides = PROGRAMS[name]
    found = open_topology(topology)

    from convmesh import mesh as meshes
    from convmesh.plan.step_plan import compile_step
    from convmesh.programs.collectives import find_collectives, total_collectives
    from convmesh.steps.noise import abstract_step, noise_setup
    from convmesh.steps.setup import make_run_mesh

    config = convmesh.load_config(ROOT / "configs" / f"{recipe}.py", overrides)
    mesh = make_run_mesh(config, found.devices)
    setup = noise_setup(config, mesh)
    step, state, batch = abstract_step(setup)
    before = time.process_time()
    compiled, refusal = compile_step(step, state, batch, meshes.platform(mesh))
    if compiled is None:
        raise SystemExit(f"{name}: too large: {refusal}")
    seconds = time.process_time() - before
    text, stats = compiled.as_text(), compiled.memory_analysis()
    totals = total_collectives(find_collectives(text, mesh), mesh)
    return {
        "program": f"{name}: {recipe}, {setup.precision}",
        "topology": f"{topology}; {meshes.describe(mesh)}",
        "images a device": config.train.batch_size // mesh.size,
        "CPU s": round(seconds),
        "arguments (aliased), MB": f"{stats.argument_size_in_bytes / 1e6:.1f} "
        f"({stats.alias_size_in_bytes / 1e6:.1f})",
        "temporaries, MB": round(stats.temp_size_in_bytes / 1e6),
        "code, MB": round(stats.generated_code_size_in_bytes / 1e6),
        "collectives: count, MB (overlapped)": "; ".join(
            f"{t.kind} over {'+'.join(t.axes)} {t.count}: {t.bytes / 1e6:.2f}"
            + (f" ({t.overlapped / t.bytes:.0%})" if t.overlapped else "")
            for t in totals
        )
        or "none",
        "widest sort": widest_sort(text),
        "scatters": len(re.findall(r" scatter\(", text)),
        "copies, MB": round(_copies(text) / 1e6),
    }


def _copies(text: str) -> float:
    from convmesh.programs.hlo import array_shapes, shape_bytes

    found = re.findall(r"= (\S+) copy\(", text)
    return sum(shape_bytes(shape) for result in found for shape in array_shapes(result))


def digest() -> str:
    """A digest of the sources: a row of other sources is not kept."""
    sums = hashlib.sha256()
    for file in sorted((*ROOT.glob("src/**/*.py"), *ROOT.glob("configs/*.py"))):
        sums.update(file.read_bytes())
    return sums.hexdigest()


def main() -> None:
    """Compiles what is not kept, and writes the table."""
    source, names = digest(), sys.argv[1:] or list(PROGRAMS)
    kept: dict[str, dict] = {}
    if ROWS.exists():
        for line in ROWS.read_text().splitlines():
            of, name, found = json.loads(line)
            if of == source or name not in names:
                kept[name] = found
    for name in names:
        if name not in kept:
            kept[name] = row(name)
            ROWS.parent.mkdir(exist_ok=True)
            with ROWS.open("a") as rows:
                print(json.dumps([source, name, kept[name]]), file=rows)
            print(name, kept[name], file=sys.stderr, flush=True)
    found = [kept[name] for name in PROGRAMS if name in kept]
    lines = ["| " + " | ".join(found[0]) + " |", "|---" * len(found[0]) + "|"]
    lines += ["| " + " | ".join(map(str, each.values())) + " |" for each in found]
    before, marker, after = OUTPUT.read_text().partition("<!-- table -->\n")
    _, end, rest = after.partition("<!-- end -->\n")
    OUTPUT.write_text(before + marker + "\n".join(lines) + "\n" + end + rest)


if __name__ == "__main__":
    main()
