"""`--elastic`: the mesh follows the devices that are there; the global batch stays the same."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from convmesh.config import apply_overrides
from convmesh.distributed import console
from convmesh.errors import ConfigError
from convmesh.mesh import DATA, make_mesh


def fit_mesh(config: ConfigDict) -> ConfigDict:
    """`config` with a mesh of all devices here, over whose `data` axis its batch divides.

    A mesh that fits is kept. Else `mesh.data` follows, if `mesh.spatial` and `mesh.model` can stay;
    else all devices are along `data`. Raises ConfigError if the batch divides over none of these.
    """
    given = config.mesh
    own = given.data, given.spatial, given.model
    for sizes in (own, (-1, given.spatial, given.model), (-1, 1, 1)):
        data = _data_shards(sizes)
        if data and config.train.batch_size % (data * config.train.accumulate) == 0:
            if sizes == own:
                return config
            mesh = {"mesh.data": data, "mesh.spatial": sizes[1], "mesh.model": sizes[2]}
            said = ", ".join(f"{key}={size}" for key, size in mesh.items())
            console.print_status(f"--elastic: {said}, for the {jax.device_count()} device(s) here")
            return apply_overrides(config, mesh)
    raise ConfigError(
        f"--elastic: train.batch_size={config.train.batch_size} does not divide over the "
        f"{jax.device_count()} device(s) here (train.accumulate={config.train.accumulate}); start "
        "another number of processes"
    )


def _data_shards(sizes: tuple[int, int, int]) -> int:
    """The size of the `data` axis of a mesh of all devices; 0 if `sizes` do not fit them."""
    try:
        return int(make_mesh(*sizes).shape[DATA])
    except ConfigError:
        return 0
