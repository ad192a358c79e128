"""Augmented training examples as a function of their position in the run."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.augmentation import augment, mixing
from convmesh.data.augmentation.sizes import StepSizes
from convmesh.data.augmentation.views import blank
from convmesh.data.loading.example_format import Example, ExampleFormat, stack_examples
from convmesh.data.order import DataOrder
from convmesh.data.record import Record, Shrink, Source
from convmesh.distributed.batch import ProcessShard
from convmesh.errors import DataError

# Separate the random numbers of one seed from each other and from those of order and sizes.
_AUGMENT_STREAM, _MIX_STREAM = 2, 3


@dataclass(frozen=True)
class _Draw:
    """The random part of an example, drawn before its image is read.

    index: in the source. rng: for the augmentation. crop: of a classifier. partner_rng: for the
    images that are mixed in; None: there are none.
    """

    index: int
    format: ExampleFormat
    rng: np.random.Generator
    crop: augment.RandomCrop | None = None
    partner_rng: np.random.Generator | None = None


@dataclass(frozen=True)
class TrainExamples:
    """Maps positions in the run to augmented examples.

    If the example drawn for a position cannot be read and the config skips it, the next one of the
    source that can be read (of its class, with `data.balance`) takes its place: a black image would
    enter the batch statistics. It is augmented with the random numbers of the drawn one, so it is
    another crop than its own. The choice depends on the position alone, so it is the same in any
    process and worker.

    mixing_ends: the position from which on no images are mixed. sizes: of the inputs.
    decodes_crops: whether an image is decoded as small as its crop allows (`data.decode`).
    """

    source: Source
    format: ExampleFormat
    settings: augment.AugmentSettings
    seed: int
    mixing_ends: float
    sizes: StepSizes
    batch_size: int
    order: DataOrder
    decodes_crops: bool = False

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
            sizes=StepSizes.of(config, steps),
            batch_size=batch_size,
            order=DataOrder.of(source, config),
            decodes_crops=config.data.decode == "crop",
        )

    def batch(self, positions: Sequence[int]) -> Example:
        """Return the examples at `positions`, which are of one step, stacked.

        Raises what `ExampleFormat.read` does, and DataError if no example can be read.
        """
        # All are drawn first: a decoded image leaves little else in the processor's caches, and
        # there the same Python takes several times as long.
        draws = list(map(self._draw, positions))
        if draws[0].crop is None or draws[0].format.rows is not None:
            return stack_examples([self._example(draw) for draw in draws])
        images = blank((len(draws) * draws[0].format.size[0], draws[0].format.size[1]))
        images = images.reshape(len(draws), *draws[0].format.size, 3)
        examples = [self._example(*each) for each in zip(draws, images, strict=True)]
        return stack_examples(examples, images)

    def _draw(self, position: int) -> _Draw:
        """Return what is drawn for `position` before its image is read."""
        epoch, index = self.order(int(position))

        def generator(stream: int) -> np.random.Generator:
            # Keyed by the example, not by the process or worker that prepares it.
            return np.random.default_rng((self.seed, stream, epoch, index))

        rng, fmt = generator(_AUGMENT_STREAM), self._format_at(position)
        if fmt.task == "classify":
            return _Draw(index, fmt, rng, crop=augment.RandomCrop.draw(self.settings, rng))
        if self.settings.mixes and position < self.mixing_ends:
            # A generator of its own: mixing does not change the augmentation of other examples.
            return _Draw(index, fmt, rng, partner_rng=generator(_MIX_STREAM))
        return _Draw(index, fmt, rng)

    def _example(self, draw: _Draw, canvas: np.ndarray | None = None) -> Example:
        """Return the example of a draw; the image of a classifier's in `canvas`, a blank."""
        fmt, rng = draw.format, draw.rng
        if draw.crop is not None:
            return self._classification(draw, draw.crop, canvas)
        index, record = self._readable(draw.index, fmt)
        counts = _counts(record, fmt.task, replaced=index != draw.index)
        if draw.partner_rng is not None:
            return self._mixed(record, index, fmt, rng, draw.partner_rng) | counts
        image, boxes, crowd, kept = augment.augment_for_detection(
            record.image, record.boxes, record.crowd, fmt.size, self.settings, rng
        )
        instances = mixing.Instances(boxes, record.labels[kept], crowd)
        # Every example of a run that mixes images has these arrays, mixed or not.
        unmixed = _partner_arrays(_NO_PARTNERS, 0) if self.settings.mixes else {}
        return fmt.detection(image, index, instances, 0) | unmixed | counts

    def _classification(
        self, draw: _Draw, crop: augment.RandomCrop, canvas: np.ndarray | None
    ) -> Example:
        """Return an augmented example of a classifier."""
        fmt = draw.format
        shrink = functools.partial(crop.shrink, fmt.size) if self.decodes_crops else None
        index, record = self._readable(draw.index, fmt, shrink)
        image = augment.augment_for_classification(
            record.image, fmt.size, self.settings, draw.rng, crop, canvas
        )
        if canvas is not None and image is not canvas:
            canvas[...] = image
        counts = _counts(record, fmt.task, replaced=index != draw.index)
        return fmt.classification(image, index, record.label) | counts

    def _readable(
        self, drawn: int, fmt: ExampleFormat, shrink: Shrink | None = None
    ) -> tuple[int, Record]:
        """Return example `drawn`, or the one that takes its place, and its index."""
        for index in self.order.substitutes(drawn):
            record = fmt.read(self.source, index, shrink)
            if record is not None:
                return index, record
        raise DataError(
            f"{self.source.name(0)}: cannot be read, and neither can any other of the"
            f" {len(self.source)} images of split {self.source.split}"
        )

    def _format_at(self, position: int) -> ExampleFormat:
        """Return the format for the input size of the step that `position` belongs to."""
        if self.sizes.sizes == (self.format.size,):
            return self.format
        return self.format.resized(self.sizes(int(position) // self.batch_size + 1))

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
        example = fmt.detection(image, index, instances, 0)
        return example | _partner_arrays(np.where(unreadable, -1, wanted), int(unreadable.sum()))


def _counts(record: Record, task: str, replaced: bool) -> Example:
    """Return the arrays that only `DataCounts` uses."""
    counts = {"replaced": int(replaced)}
    if task == "detect":
        # Boxes of replacements and partners are counted when these are drawn: once per epoch.
        own = not replaced
        counts["bad_boxes"] = own * record.bad_boxes
        counts["source_boxes"] = own * (len(record.boxes) + record.dropped_boxes)
        counts["left_out_boxes"] = own * record.left_out_boxes
    return {name: np.array(n, np.int32) for name, n in counts.items()}


_NO_PARTNERS = np.full(mixing.PARTNERS, -1, np.int64)


def _partner_arrays(partners: np.ndarray, unreadable: int) -> Example:
    return {"partners": partners, "bad_partners": np.array(unreadable, np.int32)}
