"""The largest of many values, without a sort of all of them.

XLA has a partial sort for CPUs (and for few values on NVIDIA GPUs); elsewhere `lax.top_k` sorts
all values: [32, 300, 8400] pairs of 8 bytes in a COCO detector's label assignment, for 13 of each
row. Here GPUs and TPUs search for the last value that counts. Results are those of `lax.top_k`,
ties included: of equal values the first ones are taken.
"""

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.ops.forms import PLAIN, form

FEW = 16  # so many largest values are searched one by one, more bit by bit


def top_k(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The `k` largest of the last axis and their indices, largest first: `lax.top_k`.

    `values`: [..., n], float.
    """
    if form() in ("cpu", PLAIN) or k >= values.shape[-1]:
        return lax.top_k(values, k)
    index = _indices_of_largest(values, k)
    # In the order of their indices, so that this sort, of k values, keeps the order of equal ones.
    largest, order = lax.top_k(jnp.take_along_axis(values, index, axis=-1), k)
    return largest, jnp.take_along_axis(index, order, axis=-1)


def among_largest(values: jax.Array, k: int | jax.Array) -> jax.Array:
    """Which values of the last axis are among its `k` largest: bool, the shape of `values`.

    `k`: of all rows, or traced, [..., 1]. Values that are not above -inf are not counted.
    """
    if isinstance(k, jax.Array):
        return _reach_bound(values, k) & (values > -jnp.inf)
    k = min(k, values.shape[-1])
    if k == 0:
        return jnp.zeros(values.shape, bool)
    if form() in ("cpu", PLAIN):
        return _scattered(values, k)
    if k > FEW:
        return _reach_bound(values, k) & (values > -jnp.inf)
    last, at = _last_of_largest(values, k)
    position = lax.broadcasted_iota(at.dtype, values.shape, values.ndim - 1)
    counted = (values > last) | ((values == last) & (position <= at))
    return counted & (values > -jnp.inf)


def _scattered(values: jax.Array, k: int) -> jax.Array:
    best, index = lax.top_k(values, k)
    flags = jnp.zeros(values.shape, bool)
    return jnp.put_along_axis(flags, index, best > -jnp.inf, axis=-1, inplace=False)


def _last_of_largest(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k-th of the last axis in the order of `lax.top_k`, and its index: [..., 1] each."""
    position = lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)

    def take_next(_: int, last: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        value, at = last
        later = (values < value) | ((values == value) & (position > at))
        left = jnp.where(later, values, -jnp.inf)
        best = jnp.argmax(left, axis=-1, keepdims=True).astype(jnp.int32)
        return left.max(axis=-1, keepdims=True), best

    shape = (*values.shape[:-1], 1)
    start = jnp.full(shape, jnp.inf, values.dtype), jnp.full(shape, -1, jnp.int32)
    return lax.fori_loop(0, k, take_next, start)


def _reach_bound(values: jax.Array, k: int | jax.Array) -> jax.Array:
    """The `k` largest of the last axis, the first of equal ones: bool, the shape of `values`."""
    order = _ordered_bits(values)
    bits = order.dtype.itemsize * 8
    one = jnp.ones((), order.dtype)

    def set_bit(i: int, bound: jax.Array) -> jax.Array:
        higher = bound | (one << jnp.asarray(bits - 1 - i, order.dtype))
        return jnp.where(_count(order >= higher) >= k, higher, bound)

    # Bit by bit, the k-th largest: the largest number that at least k values reach.
    start = jnp.zeros((*order.shape[:-1], 1), order.dtype)
    bound = lax.fori_loop(0, bits, set_bit, start)
    above, equal = order > bound, order == bound
    return above | (equal & (_running_count(equal) <= k - _count(above)))


def _indices_of_largest(values: jax.Array, k: int) -> jax.Array:
    """The indices of the `k` largest of the last axis, in ascending order: int32 [..., k]."""
    taken = _reach_bound(values, k)
    # The j-th that is taken is the first up to which j are; found by halving, in little memory.
    counts = _running_count(taken).reshape(-1, values.shape[-1])
    wanted = jnp.arange(1, k + 1, dtype=jnp.int32)
    find = jax.vmap(lambda count: jnp.searchsorted(count, wanted, method="scan"))
    return find(counts).reshape(*values.shape[:-1], k).astype(jnp.int32)


def _count(flags: jax.Array) -> jax.Array:
    return flags.sum(axis=-1, keepdims=True, dtype=jnp.int32)


def _running_count(flags: jax.Array) -> jax.Array:
    """How many of the last axis are set up to each position, itself included: int32."""
    return jnp.cumsum(flags, axis=-1, dtype=jnp.int32)


def _ordered_bits(values: jax.Array) -> jax.Array:
    """Unsigned integers in the order of floats (-0.0 before 0.0)."""
    bits = jnp.finfo(values.dtype).bits
    unsigned = jnp.dtype(f"uint{bits}")
    pattern = lax.bitcast_convert_type(values, unsigned)
    sign = jnp.asarray(1 << (bits - 1), unsigned)
    return jnp.where(pattern >= sign, ~pattern, pattern | sign)
