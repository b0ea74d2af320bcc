"""Training without an adversary: the baseline of every table."""

from jax import Array

from jaxrobust import losses
from jaxrobust.objectives.base import Objective, Outcome, batch_target
from jaxrobust.state import Forward
from jaxrobust.types import Batch


def standard() -> Objective:
    """Cross-entropy of the clean images; there is nothing to attack."""

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        logits, stats = forward(batch.image, None)
        return Outcome(losses.cross_entropy(logits, batch.target), logits, stats)

    return Objective(None, outer, batch_target, passes=3.0)
