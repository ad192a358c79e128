"""The walk over the equations of a jaxpr."""

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.programs.jaxpr import equations


def names(function, *arguments, **options):
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return [equation.primitive.name for equation in equations(jaxpr, **options)]


def test_equations_inside_calls_branches_and_loops():
    def function(x):
        x = jax.jit(jnp.sin)(x)
        x = lax.cond(x > 0, jnp.cos, jnp.tan, x)
        return lax.fori_loop(0, 5, lambda _, x: jnp.exp(x), x)

    found = names(function, 1.0)
    for inside in ("sin", "cos", "tan", "exp"):
        assert found.count(inside) == 1  # a loop's body is not repeated
    assert {"cond", "scan"} <= set(found)


def test_equations_of_some_primitives_are_not_entered():
    def function(x):
        return jax.checkpoint(lambda x: jax.jit(jnp.sin)(x))(x) + jax.jit(jnp.cos)(x)

    every = names(function, 1.0)
    assert {"sin", "cos"} <= set(every)
    checkpoint = next(name for name in every if name.startswith(("remat", "checkpoint")))
    found = names(function, 1.0, not_inside=(checkpoint,))
    assert checkpoint in found and "sin" not in found and "cos" in found
