"""The positions in the order of a run that one process reads."""

from __future__ import annotations

from dataclasses import dataclass

from convmesh.distributed.batch import ProcessShard


@dataclass(frozen=True)
class ShardPositions:
    """Maps n, the number of examples that this process has read before, to a position in the run.

    batch_size: of the global batch. in_batch: positions in each global batch that this process
    reads.
    """

    batch_size: int
    in_batch: tuple[int, ...]

    @classmethod
    def of(cls, batch_size: int, shard: ProcessShard | None) -> ShardPositions:
        """Return the positions of `shard`; None: of the full batch."""
        in_batch = range(batch_size) if shard is None else shard.examples.tolist()
        return cls(batch_size, tuple(in_batch))

    def of_batch(self, batch: int) -> list[int]:
        """Return the positions of a batch, counted from 0."""
        return [int(batch) * self.batch_size + i for i in self.in_batch]

    def __call__(self, n: int) -> int:
        """Return the position of the n-th example, counted from 0."""
        batch, i = divmod(int(n), len(self.in_batch))
        return batch * self.batch_size + self.in_batch[i]
