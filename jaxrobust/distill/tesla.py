"""Trajectory matching in memory that does not grow with the number of inner steps."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.distill.dsa import Augment
from jaxrobust.distill.trajectory import (
    Batches,
    Grads,
    Network,
    Segment,
    SegmentMatch,
    draw_batches,
    matching_loss,
    student_slope,
)

PASSES = 10.0
"""What an inner step costs in forward passes of its batch: 3 for a slope, twice, and 4
for the way back through it to the images alone."""


def constant_memory_match(
    network: Network, augment: Augment, inner_steps: int, batch_size: int
) -> SegmentMatch:
    """The loss of `mtt.trajectory_match`, its gradient with all theta_i as constants.

    With G = sum_i g_i, theta_N = start - rate G, so that by G the loss has the gradient

        v = 2 rate (goal - start + rate G) / ||start - goal||^2

    and by an image sum_i <v, d g_i / d image>. One pass sums G, another goes the same
    way again (theta_i = start - rate sum_{j<i} g_j) and adds up the terms, each of them
    one step's: memory is that of one step, for any N.

    Ref: Cui et al., TESLA, arXiv:2211.10586, equations 5 and 6; the factor 2 is there
    and missing in the released code, which scales no gradient but repeats a tuple.
    Deviates: theta_i is computed again, where the released code stores all of them.
    With one inner step this is the gradient of `mtt`. With more it drops how theta_i
    depends on the images of earlier steps and, for the step size, on the step size: it
    is the gradient of a surrogate, which need not be close to the exact one.
    """

    def match(segment: Segment, image: Array, target: Array, rate: Array, key: Array):
        batches = draw_batches(key, len(image), batch_size, inner_steps)

        def slope(total: Array, image: Array, batch: Batches) -> Array:
            params = segment.start - rate * total
            seen = image[batch.rows], target[batch.rows], batch.keys
            return student_slope(network, augment, params, *seen)

        def add(total: Array, batch: Batches):
            return total + slope(total, image, batch), None

        nothing = jnp.zeros_like(segment.start)
        total, _ = lax.scan(add, nothing, batches)
        end = lambda total, rate: segment.start - rate * total
        loss = lambda total, rate: matching_loss(end(total, rate), segment)
        value, (by_total, by_rate) = jax.value_and_grad(loss, (0, 1))(total, rate)

        def add_image(carry: tuple[Array, Array], batch: Batches):
            so_far, grads = carry
            here, back = jax.vjp(lambda x: slope(so_far, x, batch), image)
            return (so_far + here, grads + back(by_total)[0]), None

        start = nothing, jnp.zeros_like(image)
        (_, by_image), _ = lax.scan(add_image, start, batches)
        return value, Grads(by_image, by_rate)

    return match
