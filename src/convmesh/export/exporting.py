"""`convmesh export`: a run's model as one file, checked against the run before it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from convmesh import mesh as meshes
from convmesh.data.record import Source
from convmesh.data.splits import open_eval
from convmesh.distributed import console, processes, stop_signals
from convmesh.errors import ConfigError, ConvmeshError, RunError, some
from convmesh.export.options import ExportOptions
from convmesh.export.program import Program, exported_setup, metadata
from convmesh.export.self_check import TOLERANCES, Run, compare
from convmesh.inference.onnx_model import ONNX, OnnxModel
from convmesh.inference.prediction import Classifier, Detector
from convmesh.inference.trained_model import (
    available_mesh,
    check_image_size,
    check_same_model,
    load_variables,
    with_overrides,
)
from convmesh.ops.forms import plain_form
from convmesh.steps.setup import Setup, make_setup, precision_on
from convmesh.workdir.layout import Workdir


def export(
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: ExportOptions,
    overrides: Iterable[str] | Mapping[str, Any] = (),
) -> None:
    """Writes the model of a checkpoint, averaged if EMA is on, with its pre- and post-processing.

    The file is run on hard images and on the run's evaluation split and compared with the run; one
    that differs is removed. `overrides`: of config keys, such as where the data now lies.

    Raises:
      ConfigError: the run or checkpoint does not exist, `output` exists, or a package is missing.
      DataError: a file of the run is damaged.
      NotConvertible: the program holds an operation that ONNX files cannot hold here.
      RunError: the file differs from the run, or cannot be written.
    """
    check_output(output, options)
    prepared = prepare(workdir, options, overrides)
    log = console.print_result
    log(f"{workdir}: checkpoint of step {prepared.step} as {options.format}")
    with _ending_in_order(), _new_file(Path(output)) as file:
        run = write(prepared.program, prepared.about, file, options.format)
        tolerance = TOLERANCES[options.precision]
        compare(run, prepared.predictor.found, prepared.setup, prepared.source, tolerance, log)
    size = Path(output).stat().st_size / 2**20
    log(f"{output}: {size:.1f} MB")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run's model to be exported.

    program: what the file will compute. about: its metadata. setup, predictor: the run's, in
    float32, with the same suppression. source: its evaluation split, if that is here. step: of the
    checkpoint.
    """

    program: Program
    about: dict[str, Any]
    setup: Setup
    predictor: Detector | Classifier
    source: Source | None
    step: int


def prepare(
    workdir: str | os.PathLike[str],
    options: ExportOptions,
    overrides: Iterable[str] | Mapping[str, Any] = (),
) -> Prepared:
    """Loads what `export` needs. Raises its ConfigError and DataError."""
    files = Workdir(workdir)
    trained, classes = files.read_run()
    config = with_overrides(trained, overrides)
    check_same_model(trained, config, files)
    if options.nms != "inside" and config.task != "detect":
        raise ConfigError(
            f"--nms {options.nms}: {config.model.name} is a classifier, which suppresses nothing; "
            "leave it out"
        )
    if processes.count() > 1:
        raise ConfigError("export: start it as one process; it needs no more")
    config.precision = "float32"  # what the file is compared with, too
    setup = make_setup(config, classes, available_mesh(config), train_images=1)
    check_image_size(setup, trained)
    source = _evaluation_split(setup)
    variables, step = load_variables(setup, files, options.step, options.best)
    precision = trained.precision
    precision = precision_on(trained, setup.mesh) if precision == "auto" else precision
    if precision != config.precision:
        console.print_result(
            f"the run computed in {precision}: compared in float32; predict and eval of the run "
            f"itself round to {precision}, so that they differ more from the file"
        )

    exported = exported_setup(setup, options.precision, options.nms)
    program = Program(exported, meshes.on_host(setup.mesh, variables), options.batch)
    imported = not trained.init_from and files.weights_file.exists()
    about = metadata(exported, options.precision, options.nms, imported)
    if config.task == "detect" and (ids := files.read_category_ids(classes)):
        about["category_ids"] = list(ids)
    setup = dataclasses.replace(setup, task=exported.task)
    predictor = (Detector if config.task == "detect" else Classifier)(setup, variables, 1)
    return Prepared(program, about, setup, predictor, source, step)


def check_output(output: str | os.PathLike[str], options: ExportOptions) -> None:
    """Raises ConfigError unless `output` can be a new file, and the packages are installed."""
    path = Path(output)
    if options.format == "onnx" and path.suffix != ONNX:
        raise ConfigError(f"--output {output}: end its name with {ONNX}")
    if options.format != "onnx" and path.suffix.lower() == ONNX:
        raise ConfigError(
            f"--output {output}: {ONNX} is the name of ONNX files; end it with .{options.format}"
        )
    if os.path.lexists(path):
        raise ConfigError(f"--output {output}: exists; name a new file")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {path.parent}")
    needed = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}[options.format]
    for package in needed:
        try:
            __import__(package)
        except ImportError:
            raise ConfigError(
                f"--format {options.format}: the package {package} is not installed; "
                "pip install 'convmesh[onnx]'"
            ) from None


def _evaluation_split(setup: Setup) -> Source | None:
    """The split that the run evaluates; None, which is said, where it is not here any more."""
    try:
        source = open_eval(setup.config)
        if tuple(source.classes) == tuple(setup.classes):
            return source
        reason = f"its classes are {some(source.classes)}"
    except ConvmeshError as error:
        reason = str(error)
    console.print_result(
        f"{setup.task.best_metric} of the evaluation split is not compared: {reason} "
        "(--config.data.root=DIR says where the data is)"
    )
    return None


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Signals that would end the process at once end it by SystemExit, so that files are removed.

    Only in the main thread, which alone can have handlers.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    default = [n for n in stop_signals.to_handle() if signal.getsignal(n) == signal.SIG_DFL]
    handled = default if threading.current_thread() is threading.main_thread() else []
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file beside `path` that becomes `path` at the end, and is removed after an error.

    Raises RunError if it cannot be written, or if there is a `path` by then.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
        os.close(handle)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    file = Path(name)
    try:
        yield file
        file.chmod(0o644)
        _put_in_place(file, path)
    except FileExistsError:
        raise RunError(
            f"{path}: another program has written it meanwhile, and it stays; name a new file"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        file.unlink(missing_ok=True)


def _put_in_place(file: Path, path: Path) -> None:
    """Gives `file` the name `path`. Raises FileExistsError if that is taken."""
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        path.open("xb").close()
        os.replace(file, path)


def write(program: Program, about: dict[str, Any], file: Path, form: str) -> Run:
    """Writes the program to `file` as "onnx" or "stablehlo"; returns what runs the file."""
    if form == "onnx":
        from convmesh.export.onnx_form import to_onnx

        _write_bytes(file, to_onnx(program, about))
        return OnnxModel(file).run_one

    from convmesh.export.stablehlo import load, to_stablehlo

    function = functools.partial(program, program.variables)
    with plain_form():
        _write_bytes(file, to_stablehlo(function, program.shape, about))
    call = jax.jit(load(file.read_bytes(), str(file)).program.call)
    return lambda image: jax.device_get(call(np.repeat(image[None], program.batch or 1, axis=0)))


def _write_bytes(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
