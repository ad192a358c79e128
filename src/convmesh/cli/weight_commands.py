"""Commands about other people's weights: import-weights, export-weights.

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
