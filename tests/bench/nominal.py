"""Arithmetic of a function by its convolutions and matrix products, on any backend.

Counted in the traced program, before a compiler puts calls of a library in their place:
2 operations for a multiply and add, those with padding included. Loops count as often
as they run.
"""

from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp

from jaxrobust.state import init_variables


def flops(function: Callable, *arguments) -> float:
    """Operations of `function(*arguments)`; shapes will do for the arguments."""
    return _total(jax.make_jaxpr(function)(*arguments).jaxpr)


def forward_flops(model, image_shape: tuple[int, ...]) -> float:
    """Those of a forward pass of a batch [B,H,W,C], convolved as XLA would."""
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: init_variables(model, image_shape[1:], key))
    return flops(lambda v, x: model.apply(v, x, train=False), variables, image)


def _total(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1)
        parts = [_total(inner) for inner in _inner(equation.params)]
        total += times * sum(parts) + _own(equation)
    return total


def _own(equation) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        taps = prod(shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        taps = prod(kernel) // outputs
    else:
        return 0.0
    return 2.0 * prod(equation.outvars[0].aval.shape) * taps


def _inner(params):
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
