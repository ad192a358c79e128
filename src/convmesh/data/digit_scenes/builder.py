"""The TFDS builder that generates DigitScenes and writes it to disk."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from convmesh.data.digit_scenes.digits import DIGIT_RANGES
from convmesh.data.digit_scenes.scenes import DIGIT_SIZE, SIZE, compose, compose_digit
from convmesh.data.tfds_output import quiet_tfds
from convmesh.errors import ConfigError, DataError

CLASSES = tuple("0123456789")


@dataclasses.dataclass(eq=False)
class DigitScenesConfig(tfds.core.BuilderConfig):
    """One variant: its seed, and the number of examples in each split."""

    seed: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits in cluttered scenes; `image/id` is the index of the scene."""

    # Every change of the pixels needs a new version: TFDS would go on reading files of the old one.
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [
        DigitScenesConfig(
            name="full",
            description="Scenes of seed 0.",
            counts={"train": 4000, "validation": 500, "test": 500},
        ),
        DigitScenesConfig(
            name="other_seed",
            description="Test scenes of seed 1, from the same held-out digits.",
            seed=1,
            counts={"test": 500},
        ),
        DigitScenesConfig(
            name="tiny",
            description="The first scenes of `full`.",
            counts={"train": 64, "validation": 16, "test": 16},
        ),
        DigitScenesConfig(
            name="digits",
            description="Each digit once, alone, 32 x 32, for classification.",
            counts={split: len(indices) for split, indices in DIGIT_RANGES.items()},
        ),
    ]

    # Without it TFDS searches the package for checksums of downloads (there are none) with
    # importlib_resources, which it installs on old Python versions only.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=list(CLASSES))
        features: dict[str, Any] = {"image/id": tfds.features.Scalar(np.int64)}
        if self.builder_config.name == "digits":
            size, features["label"] = DIGIT_SIZE, label
        else:
            size = SIZE
            features["objects"] = tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "visible": tfds.features.Scalar(np.float32),
                }
            )
        features["image"] = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits in generated scenes.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # keeps example i of a split scene i
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            split: self._generate_examples(split, count)
            for split, count in self.builder_config.counts.items()
        }

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        generate = self._digit if self.builder_config.name == "digits" else self._scene
        for index in range(count):
            yield index, {"image/id": index} | generate(split, index)

    def _scene(self, split: str, index: int) -> dict[str, Any]:
        image, boxes, labels, visible = compose(self.builder_config.seed, split, index)
        objects = [
            {
                "bbox": tfds.features.BBox(
                    ymin=y0 / SIZE, xmin=x0 / SIZE, ymax=y1 / SIZE, xmax=x1 / SIZE
                ),
                "label": int(label),
                "visible": fraction,
            }
            for (x0, y0, x1, y1), label, fraction in zip(
                boxes.tolist(), labels, visible, strict=True
            )
        ]
        return {"image": _encode_png(image), "objects": objects}

    def _digit(self, split: str, index: int) -> dict[str, Any]:
        image, label = compose_digit(self.builder_config.seed, split, index)
        return {"image": _encode_png(image), "label": label}


# One filter and entropy coding only: smooth noise has no repetitions, and this decodes fastest too.
_PNG = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
]


def _encode_png(image: np.ndarray) -> io.BytesIO:
    bgr = np.ascontiguousarray(image[..., ::-1])
    encoded, data = cv2.imencode(".png", bgr, _PNG)
    if not encoded:
        raise DataError("digit_scenes: OpenCV could not write a PNG")
    return io.BytesIO(data.tobytes())


def prepare(config_name: str, data_dir: str | os.PathLike | None = None) -> DigitScenes:
    """Return the builder of `digit_scenes/<config_name>`, generating its files if they are missing.

    data_dir: the TFDS folder of data sets; None for the default of TFDS. Two processes may call
    this at the same time: each writes to a folder of its own, the first to finish is kept and the
    other one uses it. Needs neither network nor TensorFlow. Read examples with
    `builder.as_data_source(split)`.

    Raises ConfigError for an unknown config.
    """
    names = [config.name for config in DigitScenes.BUILDER_CONFIGS]
    if config_name not in names:
        raise ConfigError(
            f"digit_scenes: no config {config_name!r}; choose from {', '.join(names)}"
        )
    builder, prepared = _open(config_name, data_dir)
    if prepared:
        return builder
    count = sum(builder.builder_config.counts.values())
    print(
        f"digit_scenes/{config_name}: generating {count:,} examples in {builder.data_dir}",
        flush=True,
    )
    try:
        with quiet_tfds():
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except OSError:
        # Another process may have finished first: its examples are the same.
        builder, prepared = _open(config_name, data_dir)
        if not prepared:
            raise
    return builder


def _open(config_name: str, data_dir: str | os.PathLike | None) -> tuple[DigitScenes, bool]:
    """Return the builder, and whether its files are complete."""
    with quiet_tfds():
        builder = DigitScenes(config=config_name, data_dir=data_dir, file_format="array_record")
        return builder, builder.is_prepared()
