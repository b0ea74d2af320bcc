"""The gradient that every first-order attack follows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.types import LogitsFn, LossFn


def image_gradient(
    logits_fn: LogitsFn, loss: LossFn, target: Array
) -> Callable[[Array], tuple[Array, tuple[Array, Array]]]:
    """x -> (d sum_i loss_i / dx, (loss f32[B], logits f32[B,K])).

    The sum keeps each row's gradient free of the batch size; the losses and logits of
    the same forward come along for free.
    """

    def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
        logits = logits_fn(x)
        values = loss(logits, target)
        return jnp.sum(values), (values, logits)

    return jax.grad(total, has_aux=True)
