"""Training for randomized smoothing: each image beside a noisy copy of it."""

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


def stability(beta: float, bn_update: str) -> Objective:
    """CE(f(x), y) + beta KL(f(x) || f(x + delta)), delta ~ N(0, sigma^2 I).

    The "attack" that draws delta is `gaussian`, which reads no loss and no label.
    Gradients flow through both sides of the divergence. The other way to train on
    noise, CE(f(x + delta), y), is `pgd_at` with that same attack.

    Ref: Zheng et al., arXiv:1604.04326, equation 2; Carmon et al., arXiv:1905.13736,
    section 5.2 (beta 6, sigma 0.25).
    """
    check_bn_update(bn_update)

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        clean, noisy, stats = paired_forward(forward, batch, x_adv, bn_update)
        natural = losses.cross_entropy(clean, batch.target)
        return Outcome(natural + beta * losses.kl_between(clean, noisy), noisy, stats)

    return Objective(losses.cross_entropy, outer, batch_target, PAIRED_PASSES)
