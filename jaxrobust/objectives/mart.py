"""MART: more weight on the stability of images that the network misreads."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import losses
from jaxrobust.objectives.base import (
    PAIRED_PASSES,
    Objective,
    Outcome,
    batch_target,
    check_bn_update,
    paired_forward,
)
from jaxrobust.state import Forward
from jaxrobust.types import Batch


def mart(beta: float, bn_update: str) -> Objective:
    """BCE(f(x_adv), y) + beta KL(f(x) || f(x_adv)) (1 - softmax(f(x))_y).

    Ref: Wang et al., ICLR 2020, eq. 11 (beta = 5 or 6).
    """
    check_bn_update(bn_update)

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        clean, adv, stats = paired_forward(forward, batch, x_adv, bn_update)
        own = jax.nn.one_hot(batch.label, clean.shape[-1])
        doubt = 1.0 - jnp.sum(jax.nn.softmax(clean) * own, axis=-1)
        boosted = losses.boosted_cross_entropy(adv, batch.target)
        stability = losses.kl_between(clean, adv) * doubt
        return Outcome(boosted + beta * stability, adv, stats)

    return Objective(losses.cross_entropy, outer, batch_target, PAIRED_PASSES)
