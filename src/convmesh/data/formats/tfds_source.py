"""TFDS: any prepared TFDS data set, read by random access from its array_record files.

TensorFlow is not needed: numpy parses only the needed features of a record, and `images.decode`
decodes the images.
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

from convmesh.data import images
from convmesh.data.augmentation import augment
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.data.box_checks import BoxPolicy, StatedBoxes, check_boxes
from convmesh.data.record import BadExample, DataSet, Record, Shrink, Source, check_label
from convmesh.errors import ConfigError, DataError, nearest

# Names of features in stock data sets, in order of preference: coco and voc have `objects`,
# open_images `bobjects`, coco's panoptic configs `panoptic_objects`, imagenet2012 `file_name`.
_OBJECTS = ("objects", "bobjects", "panoptic_objects")
_LABELS = ("label", "type")
_IDS = ("image/id", "image_id")
_FILE_NAMES = ("image/filename", "file_name", "filename")
# A box around many objects: COCO and Open Images ignore it in training and evaluation.
_CROWDS = ("is_crowd", "is_group_of")
# Square pixels of the outline, by which COCO separates small objects from large.
_AREA = "area"
# An object that is hard to see: VOC ignores it in evaluation only.
_DIFFICULT = ("is_difficult",)

# Decoded by `images.decode`, not by TFDS.
_AS_BYTES = tfds.decode.SkipDecoding()

OWN_SET = "digit_scenes"


def open_dataset(config: ConfigDict) -> TfdsSet:
    """Return the data set `config.data.name`. Raises as `TfdsSet`."""
    return TfdsSet(config)


class TfdsSet(DataSet):
    """A prepared TFDS data set."""

    def __init__(self, config: ConfigDict):
        """Find data set `config.data.name` in `config.data.root`, or in the default TFDS folder.

        Raises ConfigError for an unknown data set, DataError for one that is not prepared.
        """
        self._config = config
        self._builder = _find_builder(config.data.name, config.data.root)
        self.splits = tuple(self._builder.info.splits)

    def source(self, split: str, training: bool) -> TfdsSource:
        """Return one split; difficult boxes are regions to ignore unless `training`.

        `split` may be a slice: `train[:80%]`. Raises ConfigError for a split or a feature that the
        data set does not have.
        """
        return TfdsSource(self._config, self._builder, split, training)


class TfdsSource(Source):
    """A split of a TfdsSet."""

    def __init__(self, config: ConfigDict, builder: Any, split: str, training: bool):
        """Open `split` of `builder`. Raises ConfigError, DataError."""
        data = config.data
        self.task, self.split = config.task, split
        self._name = builder.info.full_name
        self._shrink = None
        if training and self.task == "classify":
            self._shrink = augment.Shrink(
                input_sizes(config)[-1], tuple(data.augment.crop), data.augment.quarter_turn > 0
            )
        paths = _FeaturePaths(config, builder.info.features, self._name, training)
        self.classes = _class_names(data.classes, paths.label_feature, paths.label, self._name)
        self._policy = BoxPolicy(len(self.classes), data.on_bad_box)
        self._paths = paths
        # Parse only what is used: not masks or captions.
        self._features = _subset(builder.info.features, paths.used())
        self._records = _open_records(builder, split, data.name)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """Return example `index`. Raises BadExample, DataError."""
        return self.read(index, self._shrink)

    def read(self, index: int, shrink: Shrink | None) -> Record:
        """Return example `index`, a JPEG decoded smaller if `shrink` allows it."""
        paths, example = self._paths, self._read(index)
        file_name = self._number(index)
        if paths.file_name:
            file_name = _text(example[paths.file_name]) or file_name
        image_id: int | str = index + 1
        if paths.image_id:
            given = example[paths.image_id]
            image_id = int(given) if isinstance(given, int | np.integer) else _text(given)
        # Messages name the data set too: a file name alone does not show where to look.
        name = f"{self._name} {file_name}"
        image = images.decode(example[paths.image], name, shrink)
        if self.task == "classify":
            label = check_label(int(example[paths.label]), self.classes, name)
            return Record(image, image_id, file_name, label=label)
        height, width = image.shape[:2]
        stated = self._stated_boxes(example, (height, width))
        try:
            checked = check_boxes(stated, (height, width), self._policy, name)
        except DataError as error:
            form = _doubtful_form(example[paths.boxes]) if not paths.box_format else ""
            raise DataError(f"{error}{form}") from None
        return Record(
            image,
            image_id,
            file_name,
            boxes=checked.boxes,
            labels=checked.labels,
            crowd=checked.crowd,
            area=checked.area,
            bad_boxes=checked.bad,
            dropped_boxes=checked.dropped,
        )

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of the image of example `index`, from its header."""
        return images.stored_bits(self._read(index)[self._paths.image])

    def _read(self, index: int) -> dict[str, Any]:
        """Return the used features of example `index` by their path. Raises BadExample."""
        try:
            features = self._features.deserialize_example_np(
                self._records[index], decoders={self._paths.image: _AS_BYTES}
            )
        except Exception as error:  # a damaged file raises anything in array_record and TFDS
            raise BadExample(
                f"{self._name}: example {index} of split {self.split!r} cannot be read: {error}"
            ) from None
        return dict(_flatten(features))

    def _stated_boxes(self, example: Mapping[str, Any], size: tuple[int, int]) -> StatedBoxes:
        """Return the boxes of an example whose image has `size` (height, width)."""
        paths, (height, width) = self._paths, size
        values = np.reshape(np.asarray(example[paths.boxes], np.float64), (-1, 4))
        relative, order = not paths.box_format or "REL_" in paths.box_format, paths.box_format[-4:]
        first, second, third, fourth = values.T
        if order == "XYWH":
            boxes = np.stack([first, second, first + third, second + fourth], 1)
        else:
            boxes = values if order == "XYXY" else np.stack([second, first, fourth, third], 1)
        if relative:
            boxes = boxes * (width, height, width, height)
        crowd = np.zeros(len(boxes), bool)
        for path in paths.crowd:
            crowd |= np.asarray(example[path], np.int64) == 1  # -1 means unknown
        labels = np.asarray(example[paths.label], np.int64).reshape(-1)
        area = None
        if paths.area:
            area = np.asarray(example[paths.area], np.float32).reshape(-1)
        return StatedBoxes(boxes, labels, crowd, area)

    def name(self, index: int) -> str:
        """Return the name of the data set and the number of example `index`, counted from 1."""
        return f"{self._name} {self._number(index)}"

    def _number(self, index: int) -> str:
        return f"{self.split}-{index + 1:08d}"


def _doubtful_form(boxes: Any) -> str:
    """Return what the boxes of an image look like if most are no ymin, xmin, ymax, xmax, or ''."""
    values = np.reshape(np.asarray(boxes, np.float64), (-1, 4))
    if (values.max(1) > 2).mean() > 0.5:
        return "; in pixels? TFDS states boxes as fractions of the image size"
    if (values[:, 2:] <= values[:, :2]).any(1).mean() > 0.5:
        return "; with height and width? TFDS states boxes as ymin, xmin, ymax, xmax"
    return ""


class _FeaturePaths:
    """The features of a data set that are read, by their path (`objects/bbox`); '' if unused."""

    def __init__(self, config: ConfigDict, features: Mapping[str, Any], name: str, training: bool):
        data, flat = config.data, dict(_leaves(features))
        choose = functools.partial(_choose, flat=flat, name=name)

        def is_class(path: str) -> bool:
            return isinstance(flat[path], tfds.features.ClassLabel)

        pictures = [p for p, f in features.items() if isinstance(f, tfds.features.Image)]
        self.image = choose("image_key", data.image_key, ["image", *pictures], pictures)
        self.boxes = self.area = self.box_format = ""
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
            # The stated form of the boxes, such as XYWH; old data sets state none.
            self.box_format = str(getattr(flat[self.boxes].bbox_format, "value", ""))
            # The other features of a box are in the same group.
            group = self.boxes[: self.boxes.rfind("/") + 1]
            siblings = [p for p in flat if p[: p.rfind("/") + 1] == group]
            usual = [group + leaf for leaf in _LABELS] + [p for p in siblings if is_class(p)]
            self.label = choose("label_key", data.label_key, usual, siblings)
            ignored = _CROWDS if training else _CROWDS + _DIFFICULT
            self.crowd = tuple(p for p in siblings if p[len(group) :] in ignored)
            numbers = [p for p in siblings if np.dtype(flat[p].np_dtype).kind in "iuf"]
            self.area = next((p for p in numbers if p == group + _AREA), "")
        self.label_feature = flat[self.label]
        self.image_id = next((key for key in _IDS if key in features), "")
        self.file_name = next((key for key in _FILE_NAMES if key in features), "")

    def used(self) -> set[str]:
        """Return the paths of all features that are read."""
        single = (self.image, self.boxes, self.label, self.area, self.image_id, self.file_name)
        return {path for path in (*single, *self.crowd) if path}


def _choose(
    key: str, given: str, usual: list[str], fitting: list[str], flat: Mapping[str, Any], name: str
) -> str:
    """Return the feature `given` in `data.<key>`, else the first of `usual` that is `fitting`."""
    if given:
        if given in fitting:
            return given
        error = "has the wrong type" if given in flat else "does not exist"
        raise ConfigError(
            f"data.{key}: {given!r} {error} in {name}; choose from {', '.join(fitting) or 'none'}"
        )
    for path in usual:
        if path in fitting:
            return path
    raise ConfigError(f"data.{key}: set it to a feature of {name}, which has {', '.join(flat)}")


def _inner(feature: Any) -> Any:
    """Return the element feature of a (nested) sequence; any other feature unchanged."""
    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return feature


def _leaves(features: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every feature with its path, including those inside of sequences."""
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
    """Return the class names: `given`, else those of label feature `key` of data set `name`."""
    given = tuple(given)
    if not isinstance(feature, tfds.features.ClassLabel):
        if given:
            return given
        raise ConfigError(f"data.classes: {name} does not name the classes of {key}; set it")
    own = tuple(str(feature.int2str(i)) for i in range(feature.num_classes))
    if not given:
        return own
    if len(given) != len(own):
        raise ConfigError(
            f"data.classes: {len(given)} names given, but {key} of {name} has {len(own)} classes"
        )
    if given != own and sorted(given) == sorted(own):
        # This would swap the names of classes.
        raise ConfigError(
            f"data.classes: has the names of {name}, but not in its class id order; leave it empty"
        )
    return given


def _open_records(builder: Any, split: str, name: str) -> Sequence[bytes]:
    """Return the serialized examples of a split."""
    info, formats = builder.info, file_formats(builder)
    if "array_record" not in formats:
        raise DataError(
            f"{builder.data_dir}: prepared as {', '.join(sorted(formats)) or 'nothing'}, which only"
            f" TensorFlow reads; prepare it again: convmesh prepare --name {name} --root ANOTHER"
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
            raise DataError(f"{file}: missing; prepare the data set again")
    if not files:
        raise DataError(f"{info.full_name}: split {split!r} has no examples")
    return builder.as_data_source(
        split,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        file_format="array_record",
    )


def file_formats(builder: Any) -> set[str]:
    """Return the formats of the files of a prepared data set."""
    return {str(file_format.value) for file_format in builder.info.available_file_formats()}


def known_names() -> set[str]:
    """Return the names of all data sets that TFDS or convmesh can prepare."""
    return {*tfds.list_builders(with_community_datasets=False), OWN_SET}


def _find_builder(name: str, root: str) -> Any:
    """Return the builder of a prepared data set, from its files alone."""
    if not name:
        raise ConfigError("data.name: not set; set it to a TFDS data set, as in coco/2017")
    base, _, variant = name.partition("/")
    if base == OWN_SET:
        from convmesh.data.digit_scenes import builder as digit_scenes

        return digit_scenes.prepare(variant or "full", os.path.expanduser(root) or None)
    data_dir = os.path.expanduser(root or str(constants.DATA_DIR))
    try:
        # From the files, not from the builder's code, which imports TensorFlow in stock data sets.
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except Exception:  # TFDS raises many types for a missing data set
        raise _not_found(name, root, data_dir) from None


def _not_found(name: str, root: str, data_dir: str) -> ConfigError | DataError:
    """Return the error for a data set that is not in `data_dir`."""
    base = name.partition("/")[0].partition(":")[0]
    folders = sorted(path.parent.relative_to(data_dir) for path in _info_files(Path(data_dir)))
    prepared = [f"{folder.parent.as_posix()}:{folder.name}" for folder in folders]
    prepared_here = f"prepared in {data_dir}: {', '.join(prepared) or 'nothing'}"
    variants = [full for full in prepared if full.startswith((f"{base}/", f"{base}:"))]
    known = known_names()
    run = f"convmesh prepare --name {name}" + (f" --root {root}" if root else "")
    if variants:
        way = f"; or run: {run}" if base in known else ""
        hint = nearest(name, variants)
        return ConfigError(f"data.name: {name!r} does not exist{hint}{way}; {prepared_here}")
    if base in known:
        return DataError(f"data.name: {name!r} is not prepared; run: {run}\n{prepared_here}")
    names = [full.partition(":")[0] for full in prepared]
    hint = nearest(name, [*names, *sorted(known)])
    return ConfigError(f"data.name: no TFDS data set {name!r}{hint}; {prepared_here}")


def _info_files(data_dir: Path) -> Iterator[Path]:
    """Yield dataset_info.json of each prepared data set, in NAME/VERSION or NAME/CONFIG/VERSION."""
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json"):
        for path in data_dir.glob(pattern):
            if not path.parent.name.startswith(constants.INCOMPLETE_PREFIX):  # interrupted
                yield path
