"""Augmented training examples as a function of their position in the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.augmentation import augment, mixing
from convmesh.data.augmentation.sizes import input_sizes, size_of_step
from convmesh.data.loading.example_format import Example, ExampleFormat
from convmesh.data.order import example_at
from convmesh.data.record import Record, Source
from convmesh.distributed.batch import ProcessShard

# Separate the random numbers of one seed from each other and from those of order and sizes.
_AUGMENT_STREAM, _MIX_STREAM = 2, 3


@dataclass(frozen=True)
class TrainExamples:
    """Maps a position in the run to an augmented example.

    mixing_ends: the position from which on no images are mixed. sizes: see `input_sizes`.
    """

    source: Source
    format: ExampleFormat
    settings: augment.AugmentSettings
    seed: int
    mixing_ends: float
    sizes: tuple[tuple[int, int], ...]
    batch_size: int

    @classmethod
    def of(
        cls, source: Source, config: ConfigDict, shard: ProcessShard | None, steps: int | None
    ) -> TrainExamples:
        """Return the examples of a run of `config`; arguments as of `loader.train_batches`."""
        batch_size = config.train.batch_size
        mixing_ends = math.inf
        if steps is not None:
            mixing_ends = (1 - config.data.augment.last_plain) * steps * batch_size
        return cls(
            source=source,
            format=ExampleFormat.of(source, config, shard),
            settings=augment.AugmentSettings.from_config(config),
            seed=config.train.seed,
            mixing_ends=mixing_ends,
            sizes=input_sizes(config),
            batch_size=batch_size,
        )

    def __call__(self, position: int) -> Example:
        """Return the example at `position`. Raises what `ExampleFormat.read` does."""
        epoch, index = example_at(int(position), len(self.source), self.seed)
        fmt = self._format_at(position)
        record = fmt.read(self.source, index)
        # Every example of a run that mixes images has these arrays, mixed or not.
        unmixed = _partner_arrays(_NO_PARTNERS, 0) if self.settings.mixes else {}
        if record is None:
            return fmt.absent(index) | unmixed
        # Keyed by the example, not by the process or worker that prepares it.
        rng = np.random.default_rng((self.seed, _AUGMENT_STREAM, epoch, index))
        if fmt.task == "classify":
            image = augment.augment_for_classification(record.image, fmt.size, self.settings, rng)
            return fmt.classification(image, index, record.label)
        if self.settings.mixes and position < self.mixing_ends:
            # A generator of its own: mixing does not change the augmentation of other examples.
            partner_rng = np.random.default_rng((self.seed, _MIX_STREAM, epoch, index))
            return self._mixed(record, index, fmt, rng, partner_rng)
        image, boxes, crowd, kept = augment.augment_for_detection(
            record.image, record.boxes, record.crowd, fmt.size, self.settings, rng
        )
        instances = mixing.Instances(boxes, record.labels[kept], crowd)
        return fmt.detection(image, index, instances, record.bad_boxes) | unmixed

    def _format_at(self, position: int) -> ExampleFormat:
        """Return the format for the input size of the step that `position` belongs to."""
        if self.sizes == (self.format.size,):
            return self.format
        step = int(position) // self.batch_size + 1
        return self.format.resized(size_of_step(self.sizes, self.seed, step))

    def _mixed(
        self,
        record: Record,
        index: int,
        fmt: ExampleFormat,
        rng: np.random.Generator,
        partner_rng: np.random.Generator,
    ) -> Example:
        """Return an example with other images mixed in."""
        wanted = mixing.draw_partners(len(self.source), self.settings, partner_rng)
        records = [fmt.read(self.source, i) if i >= 0 else None for i in wanted.tolist()]
        unreadable = np.array([partner is None for partner in records]) & (wanted >= 0)
        *mosaic, mixup = records
        partners = mixing.Partners(mosaic if wanted[0] >= 0 else None, mixup)
        image, instances = mixing.mix(record, partners, fmt.size, self.settings, rng, partner_rng)
        # Bad boxes of partners are counted when these are read for themselves: once per epoch.
        example = fmt.detection(image, index, instances, record.bad_boxes)
        return example | _partner_arrays(np.where(unreadable, -1, wanted), int(unreadable.sum()))


_NO_PARTNERS = np.full(mixing.PARTNERS, -1, np.int64)


def _partner_arrays(partners: np.ndarray, unreadable: int) -> Example:
    return {"partners": partners, "bad_partners": np.array(unreadable, np.int32)}
