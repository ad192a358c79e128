"""Any prepared TFDS data set, read by random access from its array_record files.

TensorFlow is not needed: the records are parsed with numpy, only the features that are wanted, and
the images are decoded by `images.decode`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tensorflow_datasets.core import constants, read_only_builder

from convmesh.data import augment, images
from convmesh.data.record import BadExample, Record, check_label, sound_boxes, visible_area
from convmesh.data.sizes import input_sizes
from convmesh.errors import ConfigError, DataError, nearest

# Where stock sets keep things, tried in this order: coco and voc have `objects`, open_images
# `bobjects`, coco's panoptic configs `panoptic_objects`, imagenet2012 `file_name`.
_OBJECTS = ("objects", "bobjects", "panoptic_objects")
_LABELS = ("label", "type")
_IDS = ("image/id", "image_id")
_FILE_NAMES = ("image/filename", "file_name", "filename")
# A box over many objects: COCO and Open Images leave it out of training and evaluation.
_CROWDS = ("is_crowd", "is_group_of")
# Square pixels of the outline, by which COCO parts small objects from large.
_AREA = "area"
# Hard to see: VOC leaves it out of evaluation only.
_DIFFICULT = ("is_difficult",)

# Decoded by `images.decode`, not by TFDS.
_AS_BYTES = tfds.decode.SkipDecoding()

OWN_SET = "digit_scenes"


class TfdsSet:
    """A prepared TFDS data set."""

    def __init__(self, config: ConfigDict):
        """Find the set that `config.data.name` names, in `config.data.root` or TFDS's own folder.

        Raises ConfigError for an unknown set, DataError for one that is not prepared.
        """
        self._config = config
        self._builder = _find_builder(config.data.name, config.data.root)
        self.splits = tuple(self._builder.info.splits)

    def source(self, split: str, training: bool) -> TfdsSource:
        """Return one split; difficult boxes are regions to ignore unless `training`.

        `split` may be a part of one: `train[:80%]`. Raises ConfigError for a split or a feature
        that the set does not have.
        """
        return TfdsSource(self._config, self._builder, split, training)


class TfdsSource:
    """A split of a prepared TFDS data set: a Source."""

    def __init__(self, config: ConfigDict, builder: Any, split: str, training: bool):
        """Open `split` of `builder`. Raises ConfigError, DataError."""
        data = config.data
        self.task, self.split = config.task, split
        self._name = builder.info.full_name
        self._on_bad_box = data.on_bad_box
        self._shrink = None
        if training and self.task == "classify":
            self._shrink = augment.Shrink(
                input_sizes(config)[-1], tuple(data.augment.crop), data.augment.quarter_turn > 0
            )
        wanted = _Features(config, builder.info.features, self._name, training)
        self.classes = _class_names(data.classes, wanted.label_feature, wanted.label, self._name)
        self._wanted = wanted
        # Parsing only these leaves masks and captions alone.
        self._features = _subset(builder.info.features, wanted.used())
        self._records = _open_records(builder, split, data.name)

    def __len__(self) -> int:
        """Return how many examples the split has."""
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """Return example `index`. Raises BadExample, DataError."""
        wanted = self._wanted
        try:
            record = self._records[index]
            decoders = {wanted.image: _AS_BYTES}
            features = self._features.deserialize_example_np(record, decoders=decoders)
        except Exception as error:  # whatever array_record and TFDS say of a damaged file
            raise BadExample(
                f"{self._name}: example {index} of split {self.split!r} cannot be read: {error}"
            ) from None
        example = dict(_flatten(features))
        file_name = self._number(index)
        if wanted.file_name:
            file_name = _text(example[wanted.file_name]) or file_name
        image_id: int | str = index + 1
        if wanted.image_id:
            given = example[wanted.image_id]
            image_id = int(given) if isinstance(given, int | np.integer) else _text(given)
        # The set's name too: a file name alone does not say where to look.
        name = f"{self._name} {file_name}"
        image = images.decode(example[wanted.image], name, self._shrink)
        if self.task == "classify":
            label = check_label(int(example[wanted.label]), self.classes, name)
            return Record(image, image_id, file_name, label=label)
        height, width = image.shape[:2]
        y0, x0, y1, x1 = np.reshape(np.asarray(example[wanted.boxes], np.float64), (-1, 4)).T
        boxes = np.stack([x0, y0, x1, y1], 1) * (width, height, width, height)
        crowd = np.zeros(len(boxes), bool)
        for key in wanted.crowd:
            crowd |= np.asarray(example[key], np.int64) == 1  # -1 stands for unknown
        labels = np.asarray(example[wanted.label], np.int64).reshape(-1)
        checked = sound_boxes(
            boxes, labels, crowd, (height, width), len(self.classes), self._on_bad_box, name
        )
        kept = checked.kept
        area = None
        if wanted.area:
            stated = np.asarray(example[wanted.area], np.float32).reshape(-1)
            area = visible_area(stated, boxes, checked)[kept]
        return Record(
            image,
            image_id,
            file_name,
            boxes=checked.boxes[kept].astype(np.float32),
            labels=labels[kept].astype(np.int32),
            crowd=crowd[kept],
            area=area,
            bad_boxes=checked.bad,
        )

    def name(self, index: int) -> str:
        """Return the name of the set and the number of example `index`, counted from 1."""
        return f"{self._name} {self._number(index)}"

    def _number(self, index: int) -> str:
        return f"{self.split}-{index + 1:08d}"


class _Features:
    """Which features of a set are read, by their path (`objects/bbox`)."""

    def __init__(self, config: ConfigDict, features: Mapping[str, Any], name: str, training: bool):
        data, flat = config.data, dict(_leaves(features))
        choose = functools.partial(_choose, flat=flat, name=name)

        def is_class(path: str) -> bool:
            return isinstance(flat[path], tfds.features.ClassLabel)

        pictures = [p for p, f in features.items() if isinstance(f, tfds.features.Image)]
        self.image = choose("image_key", data.image_key, ["image", *pictures], pictures)
        self.boxes = self.area = ""
        self.crowd: tuple[str, ...] = ()
        if config.task == "classify":
            single = [p for p, f in features.items() if p in flat and f is flat[p]]
            classes = [p for p in single if is_class(p)]
            usual = ["label", *(classes if len(classes) == 1 else ())]
            self.label = choose("label_key", data.label_key, usual, single)
        else:
            found = [p for p, f in flat.items() if isinstance(f, tfds.features.BBoxFeature)]
            usual = [p for group in _OBJECTS for p in found if p.startswith(f"{group}/")]
            if not usual and len(found) == 1:
                usual = found
            self.boxes = choose("boxes_key", data.boxes_key, usual, found)
            # What is said about a box stands beside it.
            group = self.boxes[: self.boxes.rfind("/") + 1]
            beside = [p for p in flat if p[: p.rfind("/") + 1] == group]
            usual = [group + leaf for leaf in _LABELS] + [p for p in beside if is_class(p)]
            self.label = choose("label_key", data.label_key, usual, beside)
            ignored = _CROWDS if training else _CROWDS + _DIFFICULT
            self.crowd = tuple(p for p in beside if p[len(group) :] in ignored)
            numbers = [p for p in beside if np.dtype(flat[p].np_dtype).kind in "iuf"]
            self.area = next((p for p in numbers if p == group + _AREA), "")
        self.label_feature = flat[self.label]
        self.image_id = next((key for key in _IDS if key in features), "")
        self.file_name = next((key for key in _FILE_NAMES if key in features), "")

    def used(self) -> set[str]:
        """Return the paths of all features that are read."""
        one = (self.image, self.boxes, self.label, self.area, self.image_id, self.file_name)
        return {path for path in (*one, *self.crowd) if path}


def _choose(
    key: str, given: str, usual: list[str], fitting: list[str], flat: Mapping[str, Any], name: str
) -> str:
    """Return the feature that `data.<key>` names, or the first usual one that fits."""
    if given:
        if given in fitting:
            return given
        fault = "is of the wrong kind" if given in flat else "is not there"
        raise ConfigError(
            f"data.{key}: {given!r} {fault} in {name}; fitting are {', '.join(fitting) or 'none'}"
        )
    for path in usual:
        if path in fitting:
            return path
    raise ConfigError(f"data.{key}: say which feature of {name} it is; there are {', '.join(flat)}")


def _inner(feature: Any) -> Any:
    """Return what a sequence is made of; any other feature as it is."""
    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return feature


def _leaves(features: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every feature with its path; those inside of a sequence too."""
    for key, feature in features.items():
        inner = _inner(feature)
        if isinstance(inner, tfds.features.FeaturesDict):
            yield from _leaves(inner, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", inner


def _subset(
    features: Mapping[str, Any], used: set[str], prefix: str = ""
) -> tfds.features.FeaturesDict:
    """Return only the features whose paths are in `used`."""
    kept = {}
    for key, feature in features.items():
        inner = _inner(feature)
        if isinstance(inner, tfds.features.FeaturesDict):
            below = {p for p in used if p.startswith(f"{prefix}{key}/")}
            if below:
                group = _subset(inner, below, f"{prefix}{key}/")
                is_sequence = isinstance(feature, tfds.features.Sequence)
                kept[key] = tfds.features.Sequence(group) if is_sequence else group
        elif f"{prefix}{key}" in used:
            kept[key] = feature
    return tfds.features.FeaturesDict(kept)


def _flatten(example: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in example.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _class_names(given: tuple[str, ...], feature: Any, key: str, name: str) -> tuple[str, ...]:
    """Return the class names: those given, else the feature's own."""
    given = tuple(given)
    if not isinstance(feature, tfds.features.ClassLabel):
        if given:
            return given
        raise ConfigError(f"data.classes: {name} does not name the classes of {key}; give them")
    own = tuple(str(feature.int2str(i)) for i in range(feature.num_classes))
    if not given:
        return own
    if len(given) != len(own):
        raise ConfigError(
            f"data.classes: {len(given)} names given, but {key} of {name} has {len(own)} classes"
        )
    if given != own and sorted(given) == sorted(own):
        # They would rename the classes crosswise.
        raise ConfigError(
            f"data.classes: the names of {name} in another order than its class ids; leave it empty"
        )
    return given


def _open_records(builder: Any, split: str, name: str) -> Sequence[bytes]:
    """Return the serialised examples of a split."""
    info, formats = builder.info, file_formats(builder)
    if "array_record" not in formats:
        raise DataError(
            f"{builder.data_dir}: prepared as {', '.join(sorted(formats)) or 'nothing'}, which only"
            f" TensorFlow reads; prepare it anew: convmesh prepare --name {name} --root ANOTHER"
        )
    try:
        files = [Path(part.filename) for part in info.splits[split].file_instructions]
    except (KeyError, ValueError):
        raise ConfigError(
            f"data: no split {split!r} in {info.full_name}; it has {', '.join(info.splits)}"
            f"{nearest(split, info.splits)}"
        ) from None
    for file in files:
        if not file.exists():
            raise DataError(f"{file}: missing; prepare the set anew")
    if not files:
        raise DataError(f"{info.full_name}: split {split!r} has no examples")
    return builder.as_data_source(
        split,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        file_format="array_record",
    )


def file_formats(builder: Any) -> set[str]:
    """Return the formats in which the files of a prepared set are there."""
    return {str(kind.value) for kind in builder.info.available_file_formats()}


def known_names() -> set[str]:
    """Return the names of all sets that TFDS or convmesh can prepare."""
    return {*tfds.list_builders(with_community_datasets=False), OWN_SET}


def _find_builder(name: str, root: str) -> Any:
    """Return the builder of a prepared set, from its files alone."""
    if not name:
        raise ConfigError("data.name: no TFDS set named; set it, as in coco/2017")
    base, _, variant = name.partition("/")
    if base == OWN_SET:
        from convmesh.data import digit_scenes

        return digit_scenes.prepare(variant or "full", root or None)
    data_dir = os.path.expanduser(root or str(constants.DATA_DIR))
    try:
        # From the files, not from the set's code: that of stock sets imports TensorFlow.
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except Exception:  # TFDS raises many kinds for a set that is not there
        raise _not_found(name, root, data_dir) from None


def _not_found(name: str, root: str, data_dir: str) -> ConfigError | DataError:
    base = name.partition("/")[0].partition(":")[0]
    folders = sorted(path.parent.relative_to(data_dir) for path in _info_files(Path(data_dir)))
    prepared = [f"{folder.parent.as_posix()}:{folder.name}" for folder in folders]
    there = f"prepared in {data_dir}: {', '.join(prepared) or 'nothing'}"
    variants = [full for full in prepared if full.startswith((f"{base}/", f"{base}:"))]
    known = known_names()
    run = f"convmesh prepare --name {name}" + (f" --root {root}" if root else "")
    if variants:
        way = f"; or run: {run}" if base in known else ""
        hint = nearest(name, variants)
        return ConfigError(f"data.name: {name!r} is not there{hint}{way}; {there}")
    if base in known:
        return DataError(f"data.name: {name!r} is not prepared; run: {run}\n{there}")
    names = [full.partition(":")[0] for full in prepared]
    return ConfigError(
        f"data.name: no TFDS set {name!r}{nearest(name, [*names, *sorted(known)])}; {there}"
    )


def _info_files(data_dir: Path) -> Iterator[Path]:
    """Yield the description of each prepared set: NAME/VERSION or NAME/CONFIG/VERSION."""
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json"):
        for path in data_dir.glob(pattern):
            if not path.parent.name.startswith(constants.INCOMPLETE_PREFIX):  # interrupted
                yield path
