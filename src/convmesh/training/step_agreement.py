"""What all processes do after a step, if one of them wants it: save, or save and stop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh as meshes
from convmesh.distributed import processes


class StepAgreement:
    """A reduction of two flags per device, dispatched with each step and read one step later.

    By then it has been computed, so reading it does not wait. A single process needs none.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        """Agrees over the devices of `mesh`."""
        self._alone = processes.count() == 1
        self._newest = self._before = None
        self._wanted: dict[tuple[bool, bool], jax.Array] = {}  # the flags on the mesh
        self._mesh = mesh
        if not self._alone:
            any_device = lambda flags: jnp.any(flags, axis=0)  # noqa: E731
            self._any = jax.jit(any_device, out_shardings=meshes.replicated(mesh))

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether all processes stop after this step, and whether they save.

        `stop` and `save`: whether this process wants it. Every process must call it once per step;
        with several, what one wants is agreed on one step later.
        """
        if self._alone:
            return stop, save
        self._before, self._newest = self._newest, self._any(self._flags(stop, save))
        if self._before is None:
            return False, False
        agreed_stop, agreed_save = np.asarray(self._before).tolist()
        return agreed_stop, agreed_save

    def _flags(self, stop: bool, save: bool) -> jax.Array:
        wanted = stop, save
        if wanted not in self._wanted:
            spec = jax.sharding.PartitionSpec(self._mesh.axis_names)
            at = jax.sharding.NamedSharding(self._mesh, spec)
            own = np.array([wanted])
            shape = (self._mesh.size, len(wanted))
            self._wanted[wanted] = jax.make_array_from_callback(shape, at, lambda _: own)
        return self._wanted[wanted]
