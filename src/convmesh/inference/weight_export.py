"""`convmesh export-weights`: the weights of a checkpoint as a file that torch loads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from convmesh import mesh as meshes
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.distributed import console, processes
from convmesh.errors import ConfigError, RunError
from convmesh.inference.trained_model import available_mesh, load_variables
from convmesh.inference.weight_files import BACKBONE, CLASSES, MODEL
from convmesh.steps.setup import Setup, make_setup
from convmesh.weights.preprocessing import KEYS
from convmesh.weights.safetensors_form import to_bytes
from convmesh.weights.schemes import names_for_export
from convmesh.weights.torch_names import to_torch
from convmesh.workdir import atomic_files
from convmesh.workdir.layout import Workdir

SUFFIX = ".safetensors"


def export_weights(
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    step: int | None = None,
    best: bool = False,
) -> None:
    """Writes the weights of a checkpoint, averaged if EMA is on, to a new `.safetensors`.

    They have torchvision's names (timm's for EfficientNet-Lite) and torch's layout; models that
    torchvision does not have, the paths of our layers joined by dots. The file's metadata state the
    model and its backbone, its classes and preprocessing, as JSON.

    Args:
      workdir: of a run or an import.
      output: the file; it must not exist.
      step: of the checkpoint, by default the newest.
      best: whether to take the best checkpoint instead of the newest.

    Raises:
      ConfigError: the run or checkpoint does not exist, or `output` exists.
      DataError: a file of the run is damaged.
      RunError: `output` cannot be written.
    """
    check_output(output)
    files = Workdir(workdir)
    config, classes = files.read_run()
    setup = make_setup(config, classes, available_mesh(config), train_images=1)
    variables, step = load_variables(setup, files, step, best)
    names = names_for_export(setup.model, variables)
    arrays = to_torch(names, meshes.on_host(setup.mesh, variables))
    if processes.is_first():
        _write(arrays, setup, output)
    console.print_result(f"{output}: {len(arrays)} arrays of {setup.model_name}, step {step}")


def _write(arrays: dict[str, np.ndarray], setup: Setup, output: str | os.PathLike[str]) -> None:
    """Writes the file. Raises RunError."""
    config = setup.config
    stated = {MODEL: config.model.name, BACKBONE: config.model.backbone}
    stated[CLASSES] = list(setup.classes)
    for key in KEYS:
        group, _, name = key.partition(".")
        stated[key] = config[group][name]
    stated["data.image_size"] = list(eval_size(config))  # what the resize belongs to
    metadata = {name: json.dumps(value) for name, value in stated.items()}
    try:
        data = to_bytes(arrays, {"format": "pt", **metadata})
        atomic_files.write_atomically(output, data)
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error.strerror or error}") from error


def check_output(output: str | os.PathLike[str]) -> None:
    """Raises ConfigError unless `output` is the name of a new file in an existing folder."""
    path = Path(output)
    if path.suffix != SUFFIX:
        raise ConfigError(f"--output {output}: end its name with {SUFFIX}")
    if os.path.lexists(path):
        raise ConfigError(f"--output {output}: exists; name a new file")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {path.parent}")
