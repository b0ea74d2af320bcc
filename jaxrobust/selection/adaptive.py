"""How much to select, learnt from accuracy: equation 9 of in-batch data selection."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

State = dict[str, Array]


def init() -> State:
    """P(0) = 1, and an epoch in which nothing has been seen."""
    return {"p_up": jnp.ones(()), "right": jnp.zeros(()), "steps": jnp.zeros(())}


def update(state: State, accuracy: Array, epoch_steps: int) -> State:
    """P(t) = (1 - acc(t-1)) P(t-1) at the end of each epoch of `epoch_steps` steps.

    acc is the mean accuracy f32[] of the epoch's batches, clean and attacked images
    alike, as the network was when it saw them.

    Ref: data selection for adversarial training, equation 9. The paper does not say
    which accuracy it takes.
    """
    right, steps = state["right"] + accuracy, state["steps"] + 1
    ends = steps >= epoch_steps
    p_up = jnp.where(ends, (1.0 - right / steps) * state["p_up"], state["p_up"])
    fresh = lambda value: jnp.where(ends, 0.0, value)
    return {"p_up": p_up, "right": fresh(right), "steps": fresh(steps)}


def static_size(p_up: float, sizes: Sequence[float]) -> float:
    """The least of `sizes` that is not below `p_up`; the largest where all are.

    Deviates: equation 9 tends to zero; the least size is where it stops, so that a step
    keeps learning and only as many programs as sizes are compiled.
    """
    above = [size for size in sizes if size >= p_up]
    return min(above) if above else max(sizes)
