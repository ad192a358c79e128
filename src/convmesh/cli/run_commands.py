"""Commands that write or read a workdir: train, overfit, eval, predict.

Each checks what it can before its slow imports.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from convmesh.errors import ConfigError

if TYPE_CHECKING:
    from convmesh.training.hooks import Hook


def train(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh train`."""
    from convmesh.config import check_complete, load_config
    from convmesh.workdir.layout import Workdir

    config = load_config(args.config, overrides)
    check_complete(config)
    Workdir(args.workdir).lock().refuse_if_held()

    from convmesh.training.loop import train

    train(config, args.workdir, _hooks(args), elastic=args.elastic)


def _hooks(args: argparse.Namespace) -> list[Hook]:
    """The hooks that the flags of `convmesh train` add."""
    from convmesh.training.example_log import ExampleLog
    from convmesh.training.profile import Profile

    hooks: list[Hook] = [Profile(args.profile)] if args.profile else []
    if args.example_log:
        hooks.append(ExampleLog(args.example_log))
    return hooks


def overfit(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh overfit`."""
    from convmesh.config import check_complete, load_config

    config = load_config(args.config, overrides)
    check_complete(config)

    from convmesh.training.overfit import overfit

    overfit(config, args.workdir, args.images, args.steps, overrides)


def evaluate(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh eval`."""
    from convmesh.config import parse_overrides

    _check_workdir(args.workdir)
    parse_overrides(overrides)

    from convmesh.inference.evaluation import evaluate

    evaluate(args.workdir, split=args.split, step=args.step, best=args.best, overrides=overrides)


def predict(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh predict`."""
    if args.model is None and args.workdir is None:
        raise ConfigError("predict: --workdir or --model is missing: the trained model")
    if args.model is None:
        _check_workdir(args.workdir)
    elif not args.model.endswith(".onnx"):
        raise ConfigError(
            f"--model {args.model}: name a file of `convmesh export --format onnx`, NAME.onnx"
        )
    elif os.path.isdir(args.model):
        raise ConfigError(f"--model {args.model}: is a folder; give a trained run as --workdir")
    elif args.iou is not None:
        raise ConfigError("--iou: suppression is inside the file; --workdir takes --iou")

    from convmesh.inference.options import PredictOptions
    from convmesh.inference.prediction import predict_files

    options = PredictOptions(
        threshold=args.threshold,
        iou=args.iou,
        max_detections=args.max_detections,
        top_k=args.top_k,
        batch_size=args.batch_size,
        save_txt=args.save_txt,
    )
    predict_files(args.model or args.workdir, args.paths, args.output, options)


def _check_workdir(workdir: str) -> None:
    from convmesh.workdir.layout import Workdir

    if not Workdir(workdir).has_run():
        problem = "has no config.json" if os.path.isdir(workdir) else "no such folder"
        raise ConfigError(
            f"{workdir}: {problem}; --workdir is the folder that `convmesh train` wrote"
        )
