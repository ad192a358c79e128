"""Commands that take weights in and out: import-weights, export-weights, export.

Each checks what it can before its slow imports.
"""

from __future__ import annotations

import argparse


def import_weights(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh import-weights`."""
    from convmesh.config import parse_overrides

    parse_overrides(overrides)

    from convmesh.inference.weight_import import ImportOptions, import_weights

    options = ImportOptions(args.classes, args.partial)
    import_weights(args.file, args.model, args.output, options, overrides)


def export_weights(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh export-weights`."""
    from convmesh.inference.weight_export import export_weights

    export_weights(args.workdir, args.output, args.step, args.best)


def export(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh export`."""
    from convmesh.config import parse_overrides

    if args.image_size:
        overrides = (*overrides, "data.image_size={},{}".format(*args.image_size))
    parse_overrides(overrides)

    from convmesh.export.exporting import export
    from convmesh.export.options import ExportOptions

    options = ExportOptions(args.format, args.step, args.best, args.batch, args.precision, args.nms)
    export(args.workdir, args.output, options, overrides)
