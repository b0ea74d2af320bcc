"""TRADES: clean accuracy against the stability of the prediction."""

import jax
from jax import Array

from jaxrobust import losses
from jaxrobust.objectives.base import (
    PAIRED_PASSES,
    Objective,
    Outcome,
    check_bn_update,
    paired_forward,
)
from jaxrobust.state import Forward
from jaxrobust.types import Batch, LogitsFn


def trades(beta: float, bn_update: str) -> Objective:
    """CE(f(x), y) + beta KL(f(x) || f(x_adv)); the attack maximises that same KL.

    Gradients flow through both sides of the divergence.

    Ref: Zhang et al., arXiv:1901.08573, eq. 5 (beta = 1 / lambda = 6). Deviates: the
    clean prediction that the attack moves away from uses the BatchNorm mode of the
    attack; the released code mixes evaluation and training mode.
    """
    check_bn_update(bn_update)

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        clean, adv, stats = paired_forward(forward, batch, x_adv, bn_update)
        natural = losses.cross_entropy(clean, batch.target)
        return Outcome(natural + beta * losses.kl_between(clean, adv), adv, stats)

    passes = PAIRED_PASSES + 1
    return Objective(losses.kl_divergence, outer, clean_probabilities, passes)


def clean_probabilities(logits_fn: LogitsFn, batch: Batch) -> Array:
    """softmax(f(x)) f32[B,K], which the attack drives the prediction away from."""
    return jax.lax.stop_gradient(jax.nn.softmax(logits_fn(batch.image)))
