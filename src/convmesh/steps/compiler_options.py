"""The compiler options of a train step that the compiler at hand knows."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from convmesh import mesh as meshes
from convmesh.distributed.devices import compiler_options


@functools.lru_cache(maxsize=8)
def known_options(mesh: Mesh) -> dict[str, str | bool]:
    """`compiler_options` of the mesh's platform, without those that its compiler does not know.

    The options of libtpu change between versions, and an unknown one would end the run.
    """
    platform = meshes.platform(mesh)
    options = compiler_options(platform)
    if platform != "tpu":  # XLA's own are those of the pinned versions of JAX
        return options
    return {name: value for name, value in options.items() if _is_known(mesh, name, value)}


def _is_known(mesh: Mesh, name: str, value: str | bool) -> bool:
    """Whether a program of nothing can be compiled with the option."""
    nothing = jax.ShapeDtypeStruct((), jnp.float32, sharding=meshes.replicated(mesh))
    try:
        jax.jit(lambda x: x).lower(nothing).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True
