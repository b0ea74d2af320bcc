"""The gradient of a batch, at once or slice by slice where memory is short."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import tree
from jaxrobust.errors import UserError
from jaxrobust.objectives import Outcome
from jaxrobust.types import Batch, PyTree

OutcomeFn = Callable[[PyTree, Batch, Array], Outcome]
"""(params, batch, x_adv) -> outcome, whose rows are those of the batch."""

Gradient = Callable[[PyTree, Batch, Array], tuple[tuple[Array, Outcome], PyTree]]
"""The same arguments -> ((mean loss f32[], outcome), gradient by the params)."""


def make_gradient(
    outcome_fn: OutcomeFn, mean: Callable[[Array, Array], Array], slices: int
) -> Gradient:
    """The gradient of mean(loss[B], weight[B]), one of `metrics.MEANS`, over the batch.

    With `slices` above 1 the activations of B / slices rows are in memory at a time;
    slice i has rows i, i + slices, ..., so that slices of a batch that is laid over
    devices lie on the same devices. Weights count as in the whole batch: where rows do
    not see each other, the result differs by rounding alone. BatchNorm sees the rows of
    a slice (ghost batch normalisation); the running statistics move once, by the mean
    over slices of where each would take them.

    Ref: Hoffer et al., Train longer, generalize better, arXiv:1705.08741, section 4.
    """

    def whole(params: PyTree, batch: Batch, x_adv: Array):
        def loss_fn(params: PyTree):
            outcome = outcome_fn(params, batch, x_adv)
            return mean(outcome.loss, batch.weight), outcome

        return jax.value_and_grad(loss_fn, has_aux=True)(params)

    def sliced(params: PyTree, batch: Batch, x_adv: Array):
        # Both means are linear in the losses: this is what each row counts.
        share = jax.grad(mean)(jnp.zeros_like(batch.weight), batch.weight)

        def part(given: tuple[Batch, Array, Array]):
            def loss_fn(params: PyTree):
                outcome = outcome_fn(params, *given[:2])
                return jnp.sum(outcome.loss * given[2]), outcome

            (loss, outcome), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
            rows = (outcome.loss, outcome.logits)
            return (loss, outcome.batch_stats, grads), rows

        def body(total, given):
            found, rows = part(given)
            return jax.tree.map(jnp.add, total, found), rows

        parts = tree.split_rows((batch, x_adv, share), slices)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes, _ = jax.eval_shape(part, first)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (loss, stats, grads), rows = jax.lax.scan(body, zero, parts)
        stats = jax.tree.map(lambda x: x / slices, stats)
        losses, logits = tree.join_rows(rows)
        return (loss, Outcome(losses, logits, stats)), grads

    return whole if slices == 1 else sliced


def check_slices(slices: int, batch_size: int, num_devices: int) -> None:
    """Raises `UserError` where a batch cannot be cut into slices that each divide over
    the devices."""
    if slices < 1:
        raise UserError(
            f"train.accumulate is {slices}: set it to 1, one slice, or more"
        )
    unit = slices * num_devices
    if batch_size % unit:
        near = batch_size // unit * unit or unit
        raise UserError(
            f"batch_size {batch_size} does not divide into train.accumulate = {slices} "
            f"slices over {num_devices} device(s): try {near}"
        )
