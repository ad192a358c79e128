"""tools/imagenet_val_folders.py, on a few files."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "imagenet_val_folders.py"


def run(*arguments):
    done = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_images_are_moved_into_the_folders_of_their_classes(tmp_path):
    val, table = tmp_path / "val", tmp_path / "LOC_val_solution.csv"
    val.mkdir()
    for i in (1, 2):
        (val / f"ILSVRC2012_val_0000000{i}.JPEG").write_text(str(i))
    rows = ["ImageId,PredictionString"]
    rows += [
        "ILSVRC2012_val_00000001,n02 1 2 3 4 n02 5 6 7 8 ",
        "ILSVRC2012_val_00000002,n01 1 2 3 4 ",
    ]
    table.write_text("\n".join([*rows, "ILSVRC2012_val_00000003,n01 1 2 3 4 "]))
    status, said = run(val, table)
    assert status == 1 and "ILSVRC2012_val_00000003.JPEG: is not there" in said
    assert len(list(val.glob("*.JPEG"))) == 2
    table.write_text("\n".join(rows))
    assert run(val, table) == (0, f"{val}: moved 2 images into 2 folders\n")
    assert (val / "n02" / "ILSVRC2012_val_00000001.JPEG").read_text() == "1"
    assert run(val, table) == (0, f"{val}: moved 0 images into 0 folders\n")
