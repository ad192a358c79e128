"""`convmesh import-weights`: a file of weights becomes a workdir, as a run of step 0."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from convmesh import mesh as meshes
from convmesh.config.load import Overrides
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.distributed import compile_cache, console, processes, same_run
from convmesh.errors import ConfigError, DataError, RunError, some
from convmesh.inference.weight_files import (
    FittedWeights,
    WeightFile,
    default_class_names,
    fit_weights,
    flat,
)
from convmesh.models.depth import path_names
from convmesh.steps.setup import Setup
from convmesh.steps.state import TrainState, state_of
from convmesh.weights.class_names import read_class_names
from convmesh.weights.torch_names import Fit
from convmesh.workdir import atomic_files
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir
from convmesh.workdir.run_files import model_meta


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    classes: a file of class names, '' for those of the file, of ImageNet or of COCO. partial:
    whether weights may be missing, which are randomly initialised then, or left over.
    """

    classes: str = ""
    partial: bool = False


DEFAULT_OPTIONS = ImportOptions()


def import_weights(
    path: str | os.PathLike[str],
    model: str,
    output: str | os.PathLike[str],
    options: ImportOptions = DEFAULT_OPTIONS,
    overrides: Overrides = (),
) -> None:
    """Writes a workdir of the weights of a file; prints what was taken.

    Args:
      path: a file of any form that `weights.files.read_weights` reads.
      model: the name of the model.
      output: a folder that does not exist or is empty. Its config has the preprocessing that the
        published weights of the model expect, and then `overrides`. `weights.txt` lists what
        became of each weight.
      options: class names, and whether weights may be missing.
      overrides: of config keys, see `parse_overrides`.

    Raises:
      ConfigError: `output` is not empty, there is no such model, or its classes are not known.
      DataError: the file cannot be read, or does not fit the model.
      RunError: `output` cannot be written.
      In each case, nothing is left in `output`.
    """
    workdir = Workdir(output)
    check_is_free(workdir)
    compile_cache.start()
    same_run.check_same_devices()
    file = WeightFile.read(path)

    def class_names(outputs: int | None) -> tuple[str, ...]:
        return _class_names(file, outputs, model, options)

    weights = fit_weights(file, model, class_names, meshes.make_mesh(), overrides)
    if not options.partial:
        try:
            weights.fit.require_complete(str(path), model)
        except DataError as error:
            raise DataError(f"{error}; --partial imports those that fit") from None
    for line in _lines(weights):
        console.print_result(line)
    _check_space(workdir.root, sum(array.nbytes for _, array in flat(weights.variables)))
    with _removed_on_failure(workdir):
        _write(workdir, weights)
    console.print_result(
        f"{workdir}: written; give it to predict or eval as --workdir, to train as "
        f"--config.init_from={workdir}"
    )


def check_is_free(workdir: Workdir) -> None:
    """Raises ConfigError unless the folder does not exist or is empty."""
    output = workdir.root
    try:
        if workdir.copy and workdir.copy.store.entries():
            raise ConfigError(f"--output {workdir}: is not empty; name a new folder")
        if next(os.scandir(output), None) is not None:
            raise ConfigError(f"--output {output}: is not empty; name a new folder")
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ConfigError(f"--output {output}: is a file; name a new folder") from None
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}; name a new folder") from None


def _check_space(output: Path, needed: int) -> None:
    """Raises RunError if the disk has no room for so many bytes: better than to fail half-way."""
    existing = next(path for path in (output, *output.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"--output {output}: needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free"
        )


def _class_names(
    file: WeightFile, outputs: int | None, model: str, options: ImportOptions
) -> tuple[str, ...]:
    """The classes of a file with a head of so many outputs, or None. Raises ConfigError."""
    if options.classes:
        names = read_class_names(options.classes)
        if outputs not in (None, len(names)) and not options.partial:
            raise ConfigError(
                f"--classes {options.classes}: has {len(names)} names, but {file.path} {outputs} "
                "outputs; with --partial the head is randomly initialised"
            )
        return names
    names_in_file = default_class_names(file, outputs, model)
    if names_in_file is not None:
        return names_in_file
    has = "no weights of a head" if outputs is None else f"{outputs} outputs"
    raise ConfigError(
        f"{file.path}: has {has}; give the names of the classes as --classes FILE, one a line in "
        "the order of the outputs, or a classes.json"
    )


def _lines(weights: FittedWeights) -> Iterator[str]:
    """What was taken, the classes and the preprocessing, for the screen."""
    fit, setup = weights.fit, weights.setup
    random = [*fit.missing, *(array.name for array in fit.misshaped)]
    all_of = len(fit.taken) + len(random)
    taken = len(fit.taken) if random else "all"
    yield (
        f"{weights.file.path}: {taken} of the {all_of} arrays of {setup.model_name} "
        f"taken, by {weights.naming.whose}'s names"
    )
    if assumption := weights.assumption():
        yield assumption
    if random:
        groups = weights.random_groups()
        counts = ", ".join(f"{count} of {group}" for group, count in groups.items())
        yield f"randomly initialised: {counts}"
    if fit.extra:
        yield f"unused, not in the model: {some(fit.extra)}"
    more = ", ..." if len(setup.classes) > 3 else ""
    yield f"{len(setup.classes)} classes: {', '.join(setup.classes[:3])}{more}"
    data, (height, width) = setup.config.data, eval_size(setup.config)
    resized = f"its shorter side resized to {data.eval_resize}, {data.eval_interpolation}, "
    yield (
        f"image: {resized if data.eval_resize else ''}{height} x {width} "
        f"of it; pixel mean {_rounded(data.pixel_mean)}, deviation {_rounded(data.pixel_std)}"
    )


def _rounded(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)


def _write(workdir: Workdir, weights: FittedWeights) -> None:
    """Writes the list of weights, the checkpoint, and config.json last."""
    setup = weights.setup
    if processes.is_first():
        workdir.root.mkdir(parents=True, exist_ok=True)
        text = "\n".join(_all_lines(weights.fit)) + "\n"
        atomic_files.write_atomically(workdir.weights_file, text)
    processes.wait_for_all("import")
    with Checkpoints(workdir, log=console.print_status) as checkpoints:
        meta = model_meta(setup.config, setup.classes)
        checkpoints.save(imported_state(setup, weights.variables), {**meta, "data_position": 0})
    if processes.is_first():
        workdir.write_run(setup.config, setup.classes)
        workdir.publish()


def _all_lines(fit: Fit) -> list[str]:
    return [*fit.lines(), *(f"{name}: taken" for name in fit.taken)]


def imported_state(setup: Setup, variables: dict[str, Any]) -> TrainState:
    """A new train state of `setup` with these variables; those that lack are initialised."""
    abstract = setup.abstract_state()
    model = {"params": abstract.params, "batch_stats": abstract.batch_stats}
    if len(jax.tree.leaves(variables)) < len(jax.tree.leaves(model)):
        model = setup.create_state().variables()
    found = dict(flat(variables))

    def leaf(path: Any, initial: Any) -> Any:
        array = found.get(path_names(path))
        return initial if array is None else meshes.placed(array, initial.sharding)

    return state_of(setup.state_spec, jax.tree_util.tree_map_with_path(leaf, model), setup.mesh)


@contextlib.contextmanager
def _removed_on_failure(workdir: Workdir) -> Iterator[None]:
    """Removes what was written if the import fails; a full disk is a RunError."""
    existed = workdir.root.is_dir()
    try:
        yield
    except BaseException as error:
        if processes.is_first():
            shutil.rmtree(workdir.checkpoints_folder, ignore_errors=True)
            for file in (workdir.weights_file, workdir.classes_file, workdir.config_file):
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            if not existed:
                with contextlib.suppress(OSError):
                    workdir.root.rmdir()
            if workdir.copy:  # it was empty before
                with contextlib.suppress(OSError):
                    workdir.copy.store.delete(workdir.copy.store.entries())
        if isinstance(error, OSError):
            raise RunError(f"{workdir}: cannot be written: {error.strerror or error}") from error
        raise
