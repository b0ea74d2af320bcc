"""Matching training trajectories with the exact gradient, through all inner steps."""

import jax
from jax import Array

from jaxrobust.distill.dsa import Augment
from jaxrobust.distill.trajectory import (
    Batches,
    Grads,
    Network,
    Segment,
    SegmentMatch,
    checkpointed_scan,
    draw_batches,
    matching_loss,
    student_slope,
)

PASSES = 15.0
"""What an inner step costs in forward passes of its batch: 3 for a slope, 3 times for
the sake of memory, and 6 for the way back through it."""


def trajectory_match(
    network: Network, augment: Augment, inner_steps: int, batch_size: int
) -> SegmentMatch:
    """||theta_N - goal||^2 / ||start - goal||^2 with theta_0 = start and

        theta_{i+1} = theta_i - rate * grad_theta CE(theta_i, augment(batch i))

    differentiated exactly by images and rate, in memory of O(sqrt(N)) parameter vectors
    and one step. `augment` with parameters for each row is the published one.

    Ref: Cazenavette et al., arXiv:2203.11932, equation 2 and algorithm 1. Deviates: the
    released code keeps the graph of all N steps.
    """

    def match(segment: Segment, image: Array, target: Array, rate: Array, key: Array):
        batches = draw_batches(key, len(image), batch_size, inner_steps)

        def loss(image: Array, rate: Array) -> Array:
            def step(params: Array, batch: Batches):
                seen = image[batch.rows], target[batch.rows], batch.keys
                slope = student_slope(network, augment, params, *seen)
                return params - rate * slope, None

            end = checkpointed_scan(step, segment.start, batches)
            return matching_loss(end, segment)

        value, grads = jax.value_and_grad(loss, (0, 1))(image, rate)
        return value, Grads(*grads)

    return match
