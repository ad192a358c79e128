"""A checkpoint of another model than the config describes."""

import pytest
from checkpoint_states import META, abstract, make_state

from convmesh.errors import DataError
from convmesh.workdir.checkpoints import Checkpoints


@pytest.mark.parametrize(
    "other, said",
    [
        ({"size": 8}, "its batch_stats/mean has the shape 16, wanted 8"),
        ({"ema": False}, "its ema/batch_stats/mean, of shape 16, is not in the model"),
    ],
)
def test_the_first_array_that_differs_is_named(two, other, said):
    target = abstract(make_state(2, **other), (8, 1, 1))
    with Checkpoints(two, read_only=True) as checkpoints:
        for read in (checkpoints.restore, checkpoints.restore_variables):
            with pytest.raises(DataError, match=f"2: holds another model than .*: {said}"):
                read(2, target)


def test_an_average_that_was_not_saved_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1, ema=False), META)
        with pytest.raises(DataError, match="it has no ema/batch_stats/mean, of shape 16"):
            checkpoints.restore_variables(1, abstract(make_state(1), (8, 1, 1)))
