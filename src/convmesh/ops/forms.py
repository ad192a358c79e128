"""The platform whose form of an op a program is traced with: that of its mesh, not of this host.

So a program that is compiled here for other devices (`convmesh plan`) is the one that they run.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

from convmesh.distributed import devices

PLAIN = "plain"
_GPUS = ("cuda", "rocm")  # as JAX calls them where it compiles for devices that are not here

_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """A context in which each op is traced in its simplest form, whatever is fastest.

    For programs that are converted to another format, or run on several platforms.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def form() -> str:
    """The form for the program being traced: "cpu", "gpu", "tpu", or PLAIN.

    Outside a mesh it is that of JAX's devices here.
    """
    if _plain.get():
        return PLAIN
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = device.platform if device else devices.platform()
    return "gpu" if platform in _GPUS else platform
