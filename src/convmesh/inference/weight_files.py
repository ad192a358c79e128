"""The weights of a file, as variables of a model: names, classes, and what its input must be."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from convmesh.config import apply_overrides, defaults
from convmesh.config.load import Overrides
from convmesh.errors import ConfigError, DataError, nearest, some
from convmesh.inference.trained_model import with_overrides
from convmesh.models.depth import AFTER_STAGES, depth_of, in_backbone, path_names
from convmesh.models.registry import MODELS, make_backbone, make_model
from convmesh.steps.setup import Setup, make_setup, precision_on
from convmesh.weights import preprocessing
from convmesh.weights.architectures import assumed_net
from convmesh.weights.binary_file import printable
from convmesh.weights.class_names import checked, coco_classes, imagenet_classes
from convmesh.weights.files import read_metadata, read_weights
from convmesh.weights.keras_names import from_keras
from convmesh.weights.published import COCO
from convmesh.weights.schemes import LITE_PACKAGE, Naming, choose_naming, outputs_of
from convmesh.weights.torch_names import (
    Fit,
    check_values,
    from_torch,
    names_of_leaves,
    with_epsilon,
)
from convmesh.workdir import checksums

# What an exported file says of itself, beside the keys of `preprocessing.KEYS`.
MODEL, BACKBONE, CLASSES = "model.name", "model.backbone", "classes"
# Of an imported model: no training state is kept beside the weights.
_NOT_TRAINED = {"ema.decay": 0.0, "optimizer.name": "sgd", "optimizer.momentum": 0.0}


class Net(NamedTuple):
    """A model by name, and the classifier whose backbone a detector has in place of its own."""

    name: str
    backbone: str = ""

    def to_config(self) -> dict[str, str]:
        """The values by key; a classifier has no backbone."""
        detector = MODELS[self.name][0] == "detect"
        return {MODEL: self.name, **({BACKBONE: self.backbone} if detector else {})}


@dataclass(frozen=True)
class WeightFile:
    """The arrays of a file by name, and the texts that an exported file has beside them."""

    path: Path
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    whose: str = ""  # the names that the file has, where `arrays` have others

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> WeightFile:
        """Reads a file of any form (see `read_weights`). Raises DataError.

        The arrays of a Keras application get torchvision's names.
        """
        arrays, metadata = read_weights(path), read_metadata(path)
        if (renamed := from_keras(path, arrays)) is not None:
            return cls(Path(path), renamed, metadata, "Keras")
        return cls(Path(path), arrays, metadata)

    def net(self) -> Net | None:
        """The net that the file itself states; None without, or if it is none of ours.

        Raises DataError if damaged.
        """
        if MODEL not in self.metadata:
            return None
        name = self._stated(MODEL)
        backbone = self._stated(BACKBONE) if BACKBONE in self.metadata else ""
        if not (isinstance(name, str) and isinstance(backbone, str)):
            raise DataError(f"{self.path}: its metadata {MODEL} or {BACKBONE} is no name")
        known = name in MODELS and (not backbone or make_backbone(backbone) is not None)
        return Net(name, backbone) if known else None

    def class_names(self) -> tuple[str, ...] | None:
        """The names that the file itself states; None without. Raises DataError if damaged."""
        if CLASSES not in self.metadata:
            return None
        return checked(f"{self.path}: its metadata", self._stated(CLASSES))

    def preprocessing(self) -> dict[str, Any]:
        """The keys of the config that the file itself states. Raises DataError if damaged."""
        return {key: self._stated(key) for key in preprocessing.KEYS if key in self.metadata}

    def _stated(self, name: str) -> Any:
        try:
            return json.loads(self.metadata[name])
        except (ValueError, RecursionError):
            raise DataError(f"{self.path}: its metadata {name} is no JSON") from None


@dataclass(frozen=True)
class FittedWeights:
    """A file's weights in a model.

    variables: nested dicts of numpy arrays, without those that the file lacks.
    """

    file: WeightFile
    setup: Setup
    naming: Naming
    variables: dict[str, Any]
    fit: Fit

    def assumption(self) -> str:
        """Which net the weights are taken for, where the file does not tell; "" where it does."""
        stated = MODEL in self.file.metadata
        return "" if stated else assumed_net(self.setup.model_name, self.naming.whose)

    def random_groups(self) -> Counter[str]:
        """How many arrays of the model the file lacks, by stage, or by layer outside of these."""
        state, found = self.setup.abstract_state(), dict(flat(self.variables))
        wanted = flat({"params": state.params, "batch_stats": state.batch_stats})
        return Counter(group_of(path[1:]) for path, _ in wanted if path not in found)


# The class names for a number of outputs, which is None if the file has no head of the model.
ClassNames = Callable[[int | None], tuple[str, ...]]


def fit_weights(
    file: WeightFile, model: str, class_names: ClassNames, mesh: Mesh, overrides: Overrides = ()
) -> FittedWeights:
    """The weights of `file` in the model of this name, which gets the file's number of classes.

    Its config has the preprocessing that these weights expect, then `overrides`. Raises ConfigError
    if there is no such model, or as `class_names` does, DataError if no weight has the name of one
    of the model's, and as `check_values` for those that are taken.
    """
    if model not in MODELS:
        hint = nearest(model, MODELS) or f"; the models are {', '.join(MODELS)}"
        raise ConfigError(f"--model {model}: no such model{hint}")
    as_read, file = file, _with_our_epsilon(file, model)
    config = _config(file, model, overrides)
    two, three = (_abstract(config, classes, mesh) for classes in (2, 3))
    naming = choose_naming(two.model, two.variables, file.arrays)
    naming = naming._replace(whose=file.whose or naming.whose)
    _, fit = from_torch(naming.names, two.variables, file.arrays)
    if not (fit.taken or fit.misshaped):
        raise DataError(
            f"{file.path}: none of its {len(file.arrays)} weights is one of {model}: they are "
            f"named {some(list(file.arrays))}, {model}'s {some(fit.missing)}"
        )
    classes = class_names(outputs_of(naming.names, (two.variables, three.variables), file.arrays))
    if naming.whose == LITE_PACKAGE:
        config = _config(file, model, overrides, preprocessing.LITE_PACKAGE)
    setup = make_setup(config, classes, mesh, train_images=1)
    state = setup.abstract_state()
    abstract = {"params": state.params, "batch_stats": state.batch_stats}
    variables, fit = from_torch(naming.names, abstract, file.arrays)
    check_values(str(file.path), {name: as_read.arrays[name] for name in fit.taken})
    return FittedWeights(file, setup, naming, variables, fit)


def _with_our_epsilon(file: WeightFile, model: str) -> WeightFile:
    """`file`, for batch norms with our epsilon if it is a published one with another."""
    weights = COCO.get(model)
    if weights is None or weights.epsilon is None:
        return file
    if not checksums.sha256(file.path).startswith(weights.digits):
        return file
    return replace(file, arrays=with_epsilon(file.arrays, weights.epsilon))


def fitting_net(file: WeightFile, nets: Sequence[Net]) -> Net:
    """The net that the file states, or the one of `nets`, of which the file has most arrays.

    By their names; of equally good ones the stated one, then the first.
    """
    stated = file.net()
    nets = list(dict.fromkeys([*([stated] if stated else []), *nets]))

    def count(net: Net) -> int:
        abstract = _abstract(_published_config(net.name, net.to_config()), 2)
        names = choose_naming(abstract.model, abstract.variables, file.arrays).names
        return sum(name in file.arrays for name in names_of_leaves(names, abstract.variables))

    return nets[0] if len(nets) == 1 else max(nets, key=count)


def expected_input(path: str | os.PathLike[str], nets: Sequence[Net]) -> dict[str, Any]:
    """What the weights of a file, of one of `nets`, expect of its input, as keys of the config.

    {} if neither the model nor the file says it. Raises DataError for a damaged file.
    """
    file = WeightFile.read(path)
    net = fitting_net(file, nets)
    abstract = _abstract(_config(file, net.name, net.to_config()), 2)
    naming = choose_naming(abstract.model, abstract.variables, file.arrays)
    more = preprocessing.LITE_PACKAGE if naming.whose == LITE_PACKAGE else {}
    return {**preprocessing.preprocessing_of(net.name), **more, **file.preprocessing()}


def default_class_names(
    file: WeightFile, outputs: int | None, model: str
) -> tuple[str, ...] | None:
    """The names that the file states, or ImageNet's for a classifier of 1,000 outputs, COCO's for a
    detector of 90; None for others.
    """
    stated = file.class_names()
    if stated is not None and outputs is not None and len(stated) != outputs:
        raise DataError(f"{file.path}: has {outputs} outputs, but names {len(stated)} classes")
    if stated is None:
        known = coco_classes() if MODELS[model][0] == "detect" else imagenet_classes()
        return known if outputs == len(known) else None
    return stated


def _published_config(model: str, more: Mapping[str, Any]) -> ConfigDict:
    """The config of a model: what its published weights expect, then `more`."""
    values = {MODEL: model, **_NOT_TRAINED, **preprocessing.preprocessing_of(model)}
    return apply_overrides(defaults(MODELS[model][0]), {**values, **more})


def _config(
    file: WeightFile, model: str, overrides: Overrides, more: Mapping[str, Any] | None = None
) -> ConfigDict:
    """The config of the model of a file: what it states, its weights expect, then `overrides`."""
    stated = file.net()
    backbone = stated.to_config() if stated and stated.name == model else {}
    config = _published_config(model, {**backbone, **(more or {})})
    try:
        config = apply_overrides(config, file.preprocessing())
    except ConfigError as error:
        raise DataError(f"{file.path}: its metadata: {printable(str(error))}") from None
    return with_overrides(config, overrides)


@dataclass(frozen=True)
class _Abstract:
    """A model, and the shapes of its variables."""

    model: Any
    variables: dict[str, Any]


def _abstract(config: ConfigDict, classes: int, mesh: Mesh | None = None) -> _Abstract:
    dtype = jnp.dtype(precision_on(config, mesh) if mesh else "float32")
    model = make_model(dtype=dtype, task=config.task, classes=classes, **config.model)
    images = jax.ShapeDtypeStruct((1, *config.data.image_size, 3), dtype)
    return _Abstract(model, jax.eval_shape(model.init, jax.random.key(0), images))


def flat(variables: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """(path, leaf) of each array of nested dicts; the collection is first in the path."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return [(path_names(path), leaf) for path, leaf in leaves]


def group_of(names: tuple[str, ...]) -> str:
    """The part of the model that an array is of: stem, stage 1, head."""
    depth = depth_of(names)
    if depth is None or depth in (0, AFTER_STAGES):
        return in_backbone(names)[0]
    return f"stage {depth}"
