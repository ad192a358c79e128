"""Commands about data: prepare, check-data."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from convmesh.errors import ConfigError

if TYPE_CHECKING:
    from convmesh.data.checks.inspection import Inspection

SECONDS_BETWEEN_UPDATES = 0.1  # of the progress line
DEFAULT_PICTURE = "check_data.png"
PICTURE_IMAGES = 16


def prepare(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh prepare`."""
    from convmesh.distributed import processes

    if processes.is_first():
        from convmesh.data.prepare import prepare

        prepare(args.name, args.root)


def check_data(args: argparse.Namespace, overrides: tuple[str, ...]) -> int:
    """`convmesh check-data`; returns 1 if training would refuse the data, else 0."""
    from convmesh.config import check_data_named, load_config

    config = load_config(args.config, overrides)
    check_data_named(config)
    _check_picture(args.output)

    from convmesh.data.checks.inspection import inspect
    from convmesh.distributed import processes

    if not processes.is_first():
        return 0
    inspection = inspect(config, _progress())
    if args.json:
        print(json.dumps(inspection.to_json(), indent=2))
    else:
        print("\n".join(inspection.lines()))
    if args.output or not (args.no_picture or args.json):
        _draw(inspection, args)
    if not args.json:
        print(inspection.verdict())
    return int(inspection.refused)


def _check_picture(output: str | None) -> None:
    if output and not output.endswith(".png"):
        raise ConfigError(f"--output {output}: the picture is a PNG; end its name with .png")
    if output and os.path.isdir(output):
        raise ConfigError(f"--output {output}: is a folder; name a file in it")


def _draw(inspection: Inspection, args: argparse.Namespace) -> None:
    """Draws some of the images; if the default picture cannot be written, prints a message."""
    from convmesh.distributed import console
    from convmesh.plots import grids, png

    sample = list(inspection.sample(PICTURE_IMAGES))
    if not sample:
        return
    path = args.output or DEFAULT_PICTURE
    images, examples = zip(*sample, strict=True)
    try:
        png.save_png(grids.draw_examples(images, examples, inspection.classes), path)
        message = f"{path}: {len(sample)} of the images as they are read"
    except OSError as error:
        if args.output:
            raise
        message = f"{path} cannot be written ({error.strerror}); choose another with --output"
    console.print_line(message, sys.stderr if args.json else sys.stdout)


def _progress() -> Callable[[int, int], None]:
    """A function that shows the number of images read on a terminal, and does nothing elsewhere."""
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif now - last > SECONDS_BETWEEN_UPDATES:
            print(f"\r{done:,} of {total:,} images", end="", file=sys.stderr, flush=True)
            last = now

    return show if sys.stderr.isatty() else lambda done, total: None
