from convmesh.data.digit_scenes.random_integers import RandomIntegers


def test_values_cover_their_range_and_no_more():
    values = RandomIntegers(0, 0, 0).many(-3, 4, (1000,))
    assert set(values) == set(range(-3, 4))
    draws = RandomIntegers(0, 0, 0)
    assert [draws.one(-3, 4) for _ in range(1000)] == values.tolist()


def test_seed_stream_and_index_each_select_another_sequence():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    found = {tuple(RandomIntegers(*key).many(0, 1 << 30, (4,)).tolist()) for key in keys}
    assert len(found) == 4
