"""The `convmesh` command: subcommands, their flags, and errors for people.

Only the standard library is imported here, so that `--help` answers at once; what a command needs
is imported when it runs, and only after its config has been checked.

Exit status: 0 done; 1 the data or the run failed; 2 the call or the config is wrong (nothing was
written); 75 stopped by a signal after saving; 130 interrupted.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from convmesh.errors import ConfigError, ConvmeshError, Stopped, nearest
from convmesh.signals import tell

NOT_YET = (
    "plan",
    "export",
    "import-weights",
    "export-weights",
)
FLAGS_WITH_VALUE = ("--cpu-devices", "--coordinator", "--num-processes", "--process-id")

SECONDS_BETWEEN_DRAWS = 0.1  # of the line that tells how far a command is

EXIT_STATUSES = """\
exit status:
  0    done
  1    the data or the run failed
  2    the call or the config is wrong; nothing was written
  75   stopped by a signal after saving; run it again to go on
  130, 143  ended at once: interrupted, or by a second signal
"""
OVERRIDES = """\
--config.KEY=VALUE sets one key over the recipe's, any number of times:
--config.train.steps=500 --config.data.image_size=192,256"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return _run(argv)
    except SystemExit as end:  # argparse has answered --help or --version
        if isinstance(end.code, str):
            return _end(f"convmesh: error: {end.code}", 1, debug)
        return int(end.code or 0)
    except Stopped as stop:
        return _end(f"convmesh: {stop}", stop.exit_code, debug)
    except ConvmeshError as error:
        return _end(f"convmesh: error: {error}", error.exit_code, debug)
    except KeyboardInterrupt:
        return _end("convmesh: interrupted", 130, debug)
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        return _end(f"convmesh: error: {what}", 1, debug)
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), "")
        hint = "" if debug else " (run with --debug for the traceback)"
        return _end(f"convmesh: error: {type(error).__name__}: {text}{hint}", 1, debug)


def _end(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    from convmesh import processes

    if not processes.watched():
        tell(message)
    elif status != Stopped.exit_code:
        processes.fail(message, status)
    else:  # all stop at the same step; who starts them may end all when the first has ended
        if processes.is_first():
            tell(message)
        processes.finish()
    return status


def _run(argv: list[str]) -> int:
    parser, commands = _parsers()
    given = argv
    argv = _command_first(argv, commands)
    overrides: list[str] = []
    if argv and argv[0] in commands:
        overrides, argv = _take_overrides(argv)
        _check_flags(argv, commands[argv[0]])
    args = parser.parse_args(argv)
    if overrides and not args.takes_overrides:
        why = "; it reads the workdir's config" if "workdir" in args else ""
        raise ConfigError(f"{args.command}: takes no --config.KEY{why}")
    from convmesh import processes

    if args.cpu_devices is not None:
        from convmesh.devices import simulate_devices

        simulate_devices(args.cpu_devices)
    together = args.coordinator, args.num_processes, args.process_id
    if (args.num_processes or 1) > 1 and together.count(None) == 2:
        from convmesh.local_processes import run_locally

        return run_locally(_command_again(given), args.num_processes)
    processes.start(*together)
    status = args.run(args, tuple(overrides))
    processes.finish()
    return status or 0


def _command_again(argv: list[str]) -> Callable[[int, str], list[str]]:
    """This command line, as one of several processes that `run_locally` starts."""
    own = sys.orig_argv[: len(sys.orig_argv) - len(argv)]
    if not argv or sys.orig_argv[len(own) :] != argv:  # `main` was called with something else
        own = [sys.executable, "-m", "convmesh"]

    def command(process_id: int, coordinator: str) -> list[str]:
        place = [f"--coordinator={coordinator}", f"--process-id={process_id}"]
        return [sys.executable, *own[1:], *place, *argv]

    return command


# The commands.


def _train(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    from convmesh import processes
    from convmesh.signals import StopSignal

    alone, launched = processes.count() == 1, processes.launched()
    with StopSignal(ends_process=True, alone=alone, launched=launched) as stop:
        stop.begin()
        from convmesh.config import check_complete, load_config
        from convmesh.lock import RunLock

        config = load_config(args.config, overrides)
        check_complete(config)
        RunLock(args.workdir).refuse_if_held()  # before what takes seconds to import

        from convmesh.training import train

        train(config, args.workdir, args.profile, args.debug_ledger, stop)


def _overfit(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    from convmesh.config import check_complete, load_config

    config = load_config(args.config, overrides)
    check_complete(config)

    from convmesh.overfit import overfit

    overfit(config, args.workdir, args.images, args.steps, overrides)


def _eval(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    from convmesh.config import parse_overrides

    _check_workdir(args.workdir)
    parse_overrides(overrides)

    from convmesh.evaluation import evaluate

    evaluate(args.workdir, split=args.split, step=args.step, best=args.best, overrides=overrides)


def _predict(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    _check_workdir(args.workdir)

    from convmesh.prediction import predict_files

    predict_files(
        args.workdir,
        args.paths,
        args.output,
        threshold=args.threshold,
        iou=args.iou,
        max_detections=args.max_detections,
        top_k=args.top_k,
        batch_size=args.batch_size,
        save_txt=args.save_txt,
    )


def _prepare(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    from convmesh import processes

    if processes.is_first():
        from convmesh.data.prepare import prepare

        prepare(args.name, args.root)


def _check_data(args: argparse.Namespace, overrides: tuple[str, ...]) -> int:
    from convmesh.config import check_data_named, load_config

    config = load_config(args.config, overrides)
    check_data_named(config)
    picture = args.output or ("" if args.no_picture or args.json else "check_data.png")
    if not picture.endswith(".png") and picture:
        raise ConfigError(f"--output {picture}: the picture is a PNG; end its name with .png")
    if os.path.isdir(picture):
        raise ConfigError(f"--output {picture}: is a folder; name the file in it")

    import json

    from convmesh import draw, processes
    from convmesh.data.inspection import inspect

    if not processes.is_first():
        return 0
    found = inspect(config, _progress())
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print("\n".join(found.lines()))
    sample = list(found.sample(16)) if picture else []
    if sample:
        try:
            images, examples = zip(*sample, strict=True)
            draw.save_png(draw.draw_examples(images, examples, found.classes), picture)
            told = f"{picture}: {len(sample)} of the images as they are read"
        except OSError as error:
            if args.output:
                raise
            told = f"{picture} cannot be written ({error.strerror}); name another with --output"
        tell(told, sys.stderr if args.json else sys.stdout)
    if not args.json:
        print(found.verdict())
    return int(found.refused)


def _progress() -> Callable[[int, int], None]:
    """What shows on a terminal how many images are done, and nothing elsewhere."""
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done == total:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif now - shown > SECONDS_BETWEEN_DRAWS:
            print(f"\r{done:,} of {total:,} images", end="", file=sys.stderr, flush=True)
            shown = now

    return show if sys.stderr.isatty() else lambda done, total: None


def _check_mesh(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    from convmesh.config import load_config

    config = load_config(args.config, overrides)

    from convmesh import processes, proof

    setup = proof.noise_setup(config)
    proof.check_mesh(setup, print if processes.is_first() else lambda text: None)


def _bench(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    from convmesh.config import check_complete, load_config

    config = load_config(args.config, overrides)

    if args.compare and args.part not in ("step", "input"):
        raise ConfigError(f"--compare: of bench step and bench input, not of {args.part}")
    if args.part == "step":
        from convmesh.bench.step import bench_step

        bench_step(config, args.json, args.compare)
        return
    if args.part == "input":
        from convmesh.bench.input import bench_input

        bench_input(config, args.json, args.compare)
        return
    check_complete(config)
    if args.part == "loop":
        from convmesh.bench.loop import bench_loop

        bench_loop(config, args.steps, args.json)
    elif args.part == "eval":
        from convmesh.bench.eval import bench_eval

        bench_eval(config, args.json)
    else:
        from convmesh.bench.scale import bench_scale

        bench_scale(args.config, overrides, args.steps, args.json)


def _check_workdir(workdir: str) -> None:
    if not os.path.isfile(os.path.join(workdir, "config.json")):
        what = "has no config.json" if os.path.isdir(workdir) else "no such folder"
        raise ConfigError(f"{workdir}: {what}; --workdir is the folder that `convmesh train` wrote")


# The parsers.


class _Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError instead of printing its usage and ending the process."""

    def __init__(self, *args, **kwargs):
        super().__init__(
            *args,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


class _HelpConfig(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from convmesh.config import describe

        print(describe())
        parser.exit()


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        import convmesh

        print(f"convmesh {convmesh.__version__}")
        parser.exit()


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="convmesh",
        description="Trains convolutional classifiers and detectors in JAX over a mesh of devices.",
        epilog=f"`convmesh COMMAND --help` tells a command's flags.\n\n{EXIT_STATUSES}",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable, summary: str, example: str, overrides: bool) -> _Parser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}\n\n{EXIT_STATUSES}",
        )
        sub.set_defaults(run=run, takes_overrides=overrides)
        if overrides:
            group = sub.add_argument_group("overrides", OVERRIDES)
            group.add_argument(
                "--help-config", action=_HelpConfig, nargs=0, help="list every key and exit"
            )
        group = sub.add_argument_group("common flags")
        group.add_argument(
            "--cpu-devices",
            type=_count,
            metavar="N",
            help="simulate N devices on the CPU (in each process), to try a mesh",
        )
        group.add_argument(
            "--num-processes",
            type=_count,
            metavar="N",
            help="processes that run this together; given alone, all N are started here",
        )
        group.add_argument(
            "--coordinator",
            metavar="HOST:PORT",
            help="where process 0 listens for the others, if no cluster tells them",
        )
        group.add_argument(
            "--process-id", type=_step, metavar="I", help="which of the processes this is, from 0"
        )
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    train = command(
        "train",
        _train,
        "train a recipe; run again with the same workdir it goes on where it was",
        "convmesh train --config configs/demo.py --workdir runs/demo --config.train.steps=500",
        overrides=True,
    )
    train.add_argument("--config", required=True, metavar="FILE", help="the recipe, a Python file")
    train.add_argument("--workdir", required=True, metavar="DIR", help="where the run is written")
    train.add_argument(
        "--profile",
        type=_count,
        default=0,
        metavar="STEPS",
        help="trace that many steps into DIR/profile, for xprof, and say what took their time",
    )
    train.add_argument(
        "--debug-ledger",
        metavar="FILE",
        help="write a line for each example of each step: epoch, position, name",
    )

    evaluate = command(
        "eval",
        _eval,
        "evaluate a checkpoint of a workdir, on any mesh, wherever the data now lies",
        "convmesh eval --workdir runs/demo --split test",
        overrides=True,
    )
    evaluate.add_argument("--workdir", required=True, metavar="DIR", help="a workdir of train")
    evaluate.add_argument("--split", metavar="NAME", help="split (default: the recipe's)")
    which = evaluate.add_mutually_exclusive_group()
    which.add_argument("--step", type=_step, metavar="N", help="checkpoint (default: the last)")
    which.add_argument("--best", action="store_true", help="the checkpoint with the best metric")

    predict = command(
        "predict",
        _predict,
        "run a trained model on images: predictions.json and a drawn picture for each",
        "convmesh predict --workdir runs/demo photos/ 'more/*.jpg' --output predicted",
        overrides=False,
    )
    predict.add_argument("--workdir", required=True, metavar="DIR", help="a workdir of train")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders, globs")
    predict.add_argument("--output", required=True, metavar="OUT", help="folder for the results")
    predict.add_argument(
        "--threshold",
        type=_fraction,
        default=0.3,
        metavar="T",
        help="lowest score of a detection that is kept (default: %(default)s)",
    )
    predict.add_argument(
        "--iou",
        type=_fraction,
        metavar="T",
        help="overlap above which the lower score is dropped (default: the model's)",
    )
    predict.add_argument(
        "--max-detections",
        type=_count,
        default=100,
        metavar="N",
        help="most detections in an image (default: %(default)s)",
    )
    predict.add_argument(
        "--top-k",
        type=_count,
        default=5,
        metavar="K",
        help="classes listed by a classifier (default: %(default)s)",
    )
    predict.add_argument(
        "--batch-size",
        type=_count,
        default=8,
        metavar="N",
        help="images at a time (default: %(default)s)",
    )
    predict.add_argument(
        "--save-txt", action="store_true", help="also write a text file of boxes for each image"
    )

    prepare = command(
        "prepare",
        _prepare,
        "download a TFDS data set and write it as training reads it",
        "convmesh prepare --name coco/2017 --root data",
        overrides=False,
    )
    prepare.add_argument(
        "--name", required=True, metavar="TFDS_NAME", help="the data set, as data.name will be"
    )
    prepare.add_argument(
        "--root",
        default="",
        metavar="DIR",
        help="where it is written, as data.root will be (default: TFDS's own folder)",
    )

    check_data = command(
        "check-data",
        _check_data,
        "open every image that a run would use, and list what is wrong with the data",
        "convmesh check-data --config configs/classify.py --config.data.root=DIR",
        overrides=True,
    )
    check_data.add_argument("--config", required=True, metavar="FILE", help="the recipe")
    drawn = check_data.add_mutually_exclusive_group()
    drawn.add_argument(
        "--output",
        metavar="FILE",
        help="picture of 16 images with their boxes, a PNG (default: check_data.png; none with "
        "--json)",
    )
    drawn.add_argument("--no-picture", action="store_true", help="draw nothing")
    check_data.add_argument("--json", action="store_true", help="one JSON object, for machines")

    overfit = command(
        "overfit",
        _overfit,
        "learn the first images of the data by heart: tells whether a recipe and its data fit",
        "convmesh overfit --config configs/demo.py --workdir runs/by_heart",
        overrides=True,
    )
    overfit.add_argument("--config", required=True, metavar="FILE", help="the recipe")
    overfit.add_argument("--workdir", required=True, metavar="DIR", help="where it is written")
    overfit.add_argument(
        "--images",
        type=_count,
        default=8,
        metavar="N",
        help="images that are learnt: the first that hold an object (default: %(default)s)",
    )
    overfit.add_argument(
        "--steps", type=_count, default=200, metavar="S", help="length (default: %(default)s)"
    )

    check_mesh = command(
        "check-mesh",
        _check_mesh,
        "train a few steps of noise on the mesh of the devices here and compare with one device",
        "convmesh check-mesh --config configs/demo.py --config.mesh.spatial=2",
        overrides=True,
    )
    check_mesh.add_argument("--config", required=True, metavar="FILE", help="the recipe")

    bench = command(
        "bench",
        _bench,
        "measure one part of the program",
        "convmesh bench step --config configs/demo.py --cpu-devices 8 --config.mesh.spatial=2",
        overrides=True,
    )
    bench.add_argument(
        "part",
        choices=("step", "loop", "input", "eval", "scale"),
        metavar="PART",
        help="step: collectives, memory and time of a compiled train step on this mesh; "
        "loop: the whole of training, in turns with its bare step; "
        "input: images/s from JPEG files to augmented batches, beside what decoding them allows; "
        "eval: images/s of a whole evaluation, beside its prediction step; "
        "scale: images/s and result of one process on one core against two on two",
    )
    bench.add_argument("--config", required=True, metavar="FILE", help="the recipe")
    bench.add_argument(
        "--steps",
        type=_count,
        default=300,
        metavar="N",
        help="length of the runs of loop and scale (default: %(default)s)",
    )
    bench.add_argument(
        "--compare",
        choices=("torch",),
        help="take turns with PyTorch: the same layers, losses and optimiser (step), or a "
        "DataLoader with torchvision's transforms (input)",
    )
    bench.add_argument("--json", action="store_true", help="one JSON object, for machines")
    return parser, dict(subparsers.choices)


def _count(text: str) -> int:
    return _number(text, int, 1, None, "an integer, at least 1")


def _step(text: str) -> int:
    return _number(text, int, 0, None, "an integer, at least 0")


def _fraction(text: str) -> float:
    return _number(text, float, 0.0, 1.0, "a number from 0 to 1")


def _number(text: str, kind: type, low: float, high: float | None, wanted: str):
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not number >= low or (high is not None and number > high):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")
    return number


# What argparse cannot do: flags before the command, --config.KEY=VALUE, the nearest name.


def _command_first(argv: list[str], commands: dict[str, _Parser]) -> list[str]:
    """`argv` with the command in front of common flags that stand before it."""
    start = 0
    while start < len(argv) and argv[start].startswith("-"):
        start += 2 if argv[start] in FLAGS_WITH_VALUE else 1
    before, name, after = argv[:start], argv[start : start + 1], argv[start + 1 :]
    if not name:
        if {"-h", "--help", "--version"} & set(before):
            return before
        raise ConfigError(f"no command given; one of {', '.join(commands)} (see convmesh --help)")
    if name[0] in NOT_YET:
        raise ConfigError(f"{name[0]}: not in this version, which has {', '.join(commands)}")
    if name[0] not in commands:
        hint = nearest(name[0], [*commands, *NOT_YET]) or f"; one of {', '.join(commands)}"
        raise ConfigError(f"{name[0]}: no such command{hint}")
    return [*name, *before, *after]


def _take_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """The config overrides in `argv`, each as --config.KEY=VALUE, and the rest of it."""
    overrides, rest = [], []
    tokens = iter(argv)
    for token in tokens:
        if token == "--":
            rest += [token, *tokens]
        elif not token.startswith("--config."):
            rest.append(token)
        elif "=" in token:
            overrides.append(token)
        else:
            value = next(tokens, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"{token}: no value given; write {token}=VALUE")
            overrides.append(f"{token}={value}")
    return overrides, rest


def _check_flags(argv: list[str], command: _Parser) -> None:
    """Refuses a flag that the command does not have, with the nearest one named."""
    known = [flag for flag in command._option_string_actions if flag.startswith("--")]
    for token in argv:
        if token == "--":
            return
        flag = token.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            hint = nearest(flag, known) or f" (see {command.prog} --help)"
            raise ConfigError(f"{flag}: {command.prog} has no such flag{hint}")
