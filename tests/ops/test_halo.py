import equality
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmesh.mesh import SPATIAL, P
from convmesh.ops.halo import exchange, halo_rows


@pytest.mark.parametrize(
    "window, shards, wanted",
    [
        # kernel, stride, padding, dilation: (above, below) for 32 rows.
        ((3, 1, 1, 1), 8, (1, 1)),
        ((1, 1, 0, 1), 8, (0, 0)),
        ((1, 2, 0, 1), 8, (0, 0)),  # takes each second row
        ((2, 2, 0, 1), 8, (0, 0)),  # windows lie side by side
        ((3, 2, 1, 1), 8, (1, 0)),  # the last window ends on the shard's last row
        ((7, 2, 3, 1), 8, (3, 2)),
        ((6, 4, 1, 1), 8, (1, 1)),
        ((3, 1, 2, 2), 8, (2, 2)),  # taps two rows apart
        ((3, 4, 1, 1), 8, (1, 0)),  # a window smaller than its step
        ((3, 2, (0, 1), 1), 8, (0, 1)),  # TensorFlow's padding
        ((7, 2, (2, 3), 1), 8, (2, 3)),
        ((5, 1, (2, 2), 1), 8, (2, 2)),
        ((2, 1, (0, 1), 1), 8, (0, 1)),
        ((3, 1, (0, 1), 1), 8, None),  # 31 rows come out
        ((3, 1, 0, 1), 8, None),  # 30 rows come out
        ((2, 1, 1, 1), 8, None),  # 33 rows come out
        ((3, 2, 1, 1), 32, None),  # one row a shard, at a stride of two
        ((9, 1, 4, 1), 8, (4, 4)),  # a neighbour's four rows, all of them
        ((11, 1, 5, 1), 8, None),  # a neighbour's neighbour would be needed
        ((3, 1, 1, 1), 5, None),  # 32 rows do not divide by 5
    ],
)
def test_by_hand(window, shards, wanted):
    kernel, stride, padding, dilation = window
    assert halo_rows(32, shards, kernel, stride, padding, dilation) == wanted


def windows_of(rows, taps, stride, dilation):
    """A window of `taps` over `rows`, without padding: one number a place."""
    reach = dilation * (len(taps) - 1) + 1
    places = range(0, len(rows) - reach + 1, stride)
    return [int(rows[i : i + reach : dilation] @ taps) for i in places]


@settings(deadline=None, max_examples=400)
@given(
    shards=st.sampled_from([1, 2, 3, 4, 8]),
    rows=st.integers(1, 12),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4) | st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.integers(1, 3),
)
def test_shards_with_their_halo_have_all_windows(shards, rows, kernel, stride, padding, dilation):
    height = shards * rows
    halo = halo_rows(height, shards, kernel, stride, padding, dilation)
    rng = np.random.default_rng(0)
    image, taps = rng.integers(-99, 99, height), rng.integers(-99, 99, kernel)
    expected = windows_of(np.pad(image, padding), taps, stride, dilation)
    if halo is None:
        # Which never needs another's row.
        assert not (kernel == stride == 1 and padding in (0, (0, 0)))
        return
    above, below = halo
    assert 0 <= above <= rows and 0 <= below <= rows  # the direct neighbours have them
    padded = np.pad(image, (above, below))
    parts = [
        windows_of(padded[i * rows : (i + 1) * rows + above + below], taps, stride, dilation)
        for i in range(shards)
    ]
    assert sum(parts, []) == expected
    assert len({len(part) for part in parts}) == 1
    if below:  # and no row more than needed
        short = windows_of(padded[: rows + above + below - 1], taps, stride, dilation)
        assert len(short) < len(parts[0])


def halos(above, below, fill):
    """Each shard with its halo: four of two rows; its values are the number of the row, from 1."""
    image, spec = np.arange(1.0, 9.0).reshape(1, 8, 1, 1), P(None, SPATIAL)
    with jax.set_mesh(equality.make_mesh((1, 4, 1))):
        get = jax.shard_map(
            lambda x: exchange(x, above, below, fill), in_specs=spec, out_specs=spec
        )
        return np.asarray(jax.jit(get)(image)).reshape(4, -1).tolist()


@pytest.mark.parametrize("fill", [0.0, -7.0])
def test_exchange_adds_the_rows_of_the_neighbours(fill):
    assert halos(2, 1, fill) == [[fill, fill, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7],
                           [5, 6, 7, 8, fill]]  # fmt: skip
    assert halos(0, 2, fill) == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8], [7, 8, fill, fill]]
    assert halos(1, 0, fill) == [[fill, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]
    assert halos(0, 0, fill) == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_exchange_repeats_the_images_edges():
    assert halos(2, 1, None) == [[1, 1, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7],
                                 [5, 6, 7, 8, 8]]  # fmt: skip
    assert halos(0, 2, None) == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8], [7, 8, 8, 8]]
    assert halos(1, 0, None) == [[1, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]
