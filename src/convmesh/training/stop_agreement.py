"""Agreement of all processes on the step to stop after, whichever of them received a signal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh as meshes
from convmesh.distributed import processes
from convmesh.training.signals import StopSignal


class StopAgreement:
    """A reduction of one flag per device, dispatched with each step and read one step later.

    By then it has been computed, so reading it does not wait. A single process needs none.
    """

    def __init__(self, stop: StopSignal, mesh: jax.sharding.Mesh) -> None:
        """Agrees on what `stop` has received, over the devices of `mesh`."""
        self._stop, self._alone = stop, processes.count() == 1
        self._newest = self._before = None
        if not self._alone:
            at = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))

            def flags(value: bool) -> jax.Array:
                return jax.make_array_from_callback((mesh.size,), at, lambda _: np.array([value]))

            self._flags = {value: flags(value) for value in (False, True)}
            self._any = jax.jit(jnp.any, out_shardings=meshes.replicated(mesh))

    def agreed(self) -> bool:
        """Whether the run stops after this step. Every process must call it once per step."""
        if self._alone:
            return bool(self._stop.received)
        flag = self._flags[bool(self._stop.received)]
        self._before, self._newest = self._newest, self._any(flag)
        if self._before is None or not bool(self._before):
            return False
        # A signal of this process's own may still arrive; it counts as the first one then.
        self._stop.received = self._stop.received or "a signal to another process"
        return True
