"""The positions of a run that a process reads."""

from sources import shards_of

from convmesh.data.loading.positions import ShardPositions


def test_a_single_process_reads_every_position():
    positions = ShardPositions.of(4, None)
    assert [positions(n) for n in range(9)] == list(range(9))


def test_a_process_reads_the_positions_of_its_shard_in_each_batch():
    positions = ShardPositions.of(8, shards_of(2, run=2)[1])
    assert [positions(n) for n in range(8)] == [2, 3, 6, 7, 10, 11, 14, 15]


def test_a_batch_has_the_positions_of_its_examples():
    for positions in (ShardPositions.of(4, None), ShardPositions.of(8, shards_of(2, run=2)[1])):
        count = len(positions.in_batch)
        for batch in range(3):
            each = [positions(n) for n in range(batch * count, (batch + 1) * count)]
            assert positions.of_batch(batch) == each
