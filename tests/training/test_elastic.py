"""--elastic: the mesh follows the devices, the batch does not."""

import pytest

from convmesh.config import defaults
from convmesh.errors import ConfigError
from convmesh.training.elastic import fit_mesh


def config(data, spatial=1, model=1, batch_size=24, accumulate=1):
    found = defaults("classify")
    found.mesh.data, found.mesh.spatial, found.mesh.model = data, spatial, model
    found.train.batch_size, found.train.accumulate = batch_size, accumulate
    return found


def sizes(found):
    return found.mesh.data, found.mesh.spatial, found.mesh.model


# The tests have 8 devices.
@pytest.mark.parametrize(
    "given, wanted",
    [
        ((8, 1, 1), (8, 1, 1)),
        ((-1, 2, 1), (-1, 2, 1)),
        ((16, 1, 1), (8, 1, 1)),
        ((2, 1, 1), (8, 1, 1)),
        ((8, 2, 1), (4, 2, 1)),
        ((1, 1, 16), (8, 1, 1)),
        ((4, 3, 1), (8, 1, 1)),
    ],
)
def test_what_fits_is_kept_and_data_follows_the_devices(given, wanted, capsys):
    found = fit_mesh(config(*given))
    assert sizes(found) == wanted
    assert found.train.batch_size == 24
    changed = "--elastic: mesh.data={}, mesh.spatial={}, mesh.model={}, for the 8 device(s) here"
    assert (changed.format(*wanted) in "".join(capsys.readouterr())) == (given != wanted)


def test_a_batch_that_divides_over_fewer_shards_keeps_rows_or_channels():
    assert sizes(fit_mesh(config(16, 2, 1, batch_size=12))) == (4, 2, 1)


@pytest.mark.parametrize("batch_size, accumulate", [(12, 1), (24, 2)])
def test_a_batch_that_does_not_divide_is_refused(batch_size, accumulate):
    with pytest.raises(ConfigError, match=f"train.batch_size={batch_size} does not divide over"):
        fit_mesh(config(16, 1, 1, batch_size, accumulate))
