"""Moves ImageNet's validation images into a folder for each class, which convmesh reads.

    python tools/imagenet_val_folders.py VAL LOC_val_solution.csv

VAL holds ILSVRC2012_val_00000001.JPEG and so on, as distributed. The table is the one that Kaggle
distributes beside them: ImageId,PredictionString with a class such as n01440764 in front of each
box. An image that is listed and not there is an error, before anything is moved.
"""

import argparse
import csv
from pathlib import Path


def classes_of(table: Path) -> dict[str, str]:
    """The class of each image by its name without suffix."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"ImageId", "PredictionString"} <= rows[0].keys():
        raise SystemExit(f"{table}: no columns ImageId and PredictionString")
    return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}


def main() -> None:
    """Moves all images that are not in a folder yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("val", type=Path)
    parser.add_argument("table", type=Path)
    args = parser.parse_args()
    moves = []
    for image, name in classes_of(args.table).items():
        old = args.val / f"{image}.JPEG"
        new = args.val / name / old.name
        if old.exists():
            moves.append((old, new))
        elif not new.exists():
            raise SystemExit(f"{old}: is not there")
    for old, new in moves:
        new.parent.mkdir(exist_ok=True)
        old.rename(new)
    folders = {new.parent for _, new in moves}
    print(f"{args.val}: moved {len(moves)} images into {len(folders)} folders")


if __name__ == "__main__":
    main()
