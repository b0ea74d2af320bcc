"""Adversarial training proper."""

from jax import Array

from jaxrobust import losses
from jaxrobust.objectives.base import (
    Objective,
    Outcome,
    adversarial_forward,
    adversarial_passes,
    batch_target,
    check_bn_update,
)
from jaxrobust.state import Forward
from jaxrobust.types import Batch


def pgd_at(bn_update: str) -> Objective:
    """min E max_{||delta|| <= eps} CE(f(x + delta), y).

    Ref: Madry et al., arXiv:1706.06083, eq. 2.1.
    """
    check_bn_update(bn_update)

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        logits, stats = adversarial_forward(forward, batch, x_adv, bn_update)
        return Outcome(losses.cross_entropy(logits, batch.target), logits, stats)

    passes = adversarial_passes(bn_update)
    return Objective(losses.cross_entropy, outer, batch_target, passes)
