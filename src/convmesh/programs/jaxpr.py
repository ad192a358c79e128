"""Walks a jaxpr: every equation, also inside calls, loops and branches."""

from collections.abc import Collection, Iterator

from jax.extend import core


def equations(jaxpr: core.Jaxpr, not_inside: Collection[str] = ()) -> Iterator[core.JaxprEqn]:
    """Each equation, also of the jaxprs in its parameters; those of a loop's body once.

    The jaxprs inside equations of the primitives named `not_inside` are left out.
    """
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name not in not_inside:
            for inner in core.jaxprs_in_params(equation.params):
                yield from equations(inner, not_inside)
