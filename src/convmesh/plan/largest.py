"""The largest batch that fits, by compiling the step for several batches."""

from collections.abc import Callable

from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.distributed import console
from convmesh.errors import ConfigError
from convmesh.plan.step_plan import Plan, batch_unit, plan_step, with_length
from convmesh.plan.topology import Topology
from convmesh.steps.setup import make_run_mesh

CLOSE = 1.05  # the ratio of a batch that does not fit and one that does, at which the search ends
MOST = 10  # programs compiled
GROWTH = 1.25  # at most, from a batch that nearly fills the memory: XLA saves some there


def find_largest_batch(
    config: ConfigDict, topology: Topology, images: int = 0
) -> tuple[Plan | None, Plan | None]:
    """The largest global batch that was compiled and fits, and the smallest one that does not.

    At most CLOSE apart, unless MOST programs were not enough. None: there is none. images: of the
    training set, for the length of the run; 0: unknown. Raises ConfigError if the mesh does not fit
    the devices, or their memory is not known.
    """

    def compiled(batch: int) -> Plan:
        trial = config.copy_and_resolve_references()
        trial.train.batch_size = batch
        found = plan_step(with_length(trial, images), topology)
        if found.memory.available is None:
            raise ConfigError(f"plan --largest: the memory of {topology.name} is not known")
        fits = "fits" if found.memory.fits else "does not fit"
        console.print_status(f"batch {batch}: {found.memory.total / 1e6:,.0f} MB a device, {fits}")
        return found

    mesh = make_run_mesh(config, topology.devices)
    unit = batch_unit(config, mesh.shape[meshes.DATA])
    return search(compiled, config.train.batch_size, unit)


def search(
    compiled: Callable[[int], Plan], batch: int, unit: int
) -> tuple[Plan | None, Plan | None]:
    """As `find_largest_batch`, for batches that are multiples of `unit`; begins with `batch`."""
    fitting: Plan | None = None
    refused: Plan | None = None
    known: list[tuple[int, int]] = []  # batch, bytes
    for _ in range(MOST):
        found = compiled(batch)
        known.append((batch, found.memory.total + found.memory.waiting))
        if found.memory.fits:
            fitting = found
        else:
            refused = found
        low, high = fitting.batch if fitting else 0, refused.batch if refused else None
        if high is not None and (high - low <= unit or high <= low * CLOSE):
            break
        batch = _next(known, found.memory.available or 0, low, high, unit)
        if not low < batch or (high is not None and batch >= high):
            break
    return fitting, refused


def _next(
    known: list[tuple[int, int]], available: int, low: int, high: int | None, unit: int
) -> int:
    """The batch to compile next: a multiple of `unit` between `low`, which fits, and `high`.

    It is where memory would be full if it grew evenly (a secant), or just above `low`, to show that
    no more fits.
    """
    (before, bytes_before), (batch, size) = ((0, 0), *known)[-2:]
    slope = (size - bytes_before) / (batch - before)
    slope = slope if slope > 0 else size / batch
    estimate = batch + (available - size) / slope
    if low == batch and size > available / GROWTH:
        estimate = min(estimate, low * GROWTH)
    if high is not None:
        estimate = min(estimate, (low + high) / 2 if low else high / CLOSE)
    multiple = int(max(estimate, low * CLOSE) // unit) * unit
    multiple = max(multiple, low + unit)
    return multiple if high is None else min(multiple, high - unit)
