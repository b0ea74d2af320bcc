"""The min-max pair of functions that a method of adversarial training is."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from jaxrobust.errors import unknown_name
from jaxrobust.state import Forward
from jaxrobust.types import Batch, LogitsFn, LossFn, PyTree

BN_UPDATES = ("adv", "clean", "both")
PAIRED_PASSES = 6.0


class Outcome(NamedTuple):
    """What `outer` returns, never reduced: the step takes the weighted mean.

    `loss` f32[B]; `logits` f32[B,K] of the pass that training accuracy is read from;
    `batch_stats` are the running statistics that the step keeps.
    """

    loss: Array
    logits: Array
    batch_stats: PyTree


class Objective(NamedTuple):
    """min_w mean_i w_i outer(...)_i with x_adv = argmax inner(logits, target)."""

    inner: LossFn | None
    outer: Callable[[Forward, Batch, Array], Outcome]
    target: Callable[[LogitsFn, Batch], Array]
    passes: float
    """What a step costs beside the gradients of its attack, in forward passes of the
    batch: 3 for a loss and its gradient (by images or by weights alone 1, by both 2),
    and 1 for a target that asks the network."""


def batch_target(logits_fn: LogitsFn, batch: Batch) -> Array:
    """The batch's own labels, hard or soft."""
    return batch.target


def check_bn_update(bn_update: str) -> None:
    """Raises `UserError` unless `bn_update` names a rule."""
    if bn_update not in BN_UPDATES:
        raise unknown_name("bn_update", bn_update, BN_UPDATES)


def adversarial_forward(
    forward: Forward, batch: Batch, x_adv: Array, bn_update: str
) -> tuple[Array, PyTree]:
    """Logits of `x_adv` and the running statistics to keep.

    For objectives that need no clean logits; "clean" and "both" then cost a forward
    pass of their own.
    """
    stats = None
    if bn_update != "adv":
        _, stats = forward(batch.image, None)
    logits, after_adv = forward(x_adv, stats)
    return logits, stats if bn_update == "clean" else after_adv


def adversarial_passes(bn_update: str) -> float:
    """`Objective.passes` of a loss on `adversarial_forward`."""
    return 3.0 if bn_update == "adv" else 4.0


def paired_forward(
    forward: Forward, batch: Batch, x_adv: Array, bn_update: str
) -> tuple[Array, Array, PyTree]:
    """(clean logits, adversarial logits, running statistics to keep).

    `PAIRED_PASSES` is what a loss on both costs.
    """
    clean, after_clean = forward(batch.image, None)
    adv, after_adv = forward(x_adv, after_clean if bn_update == "both" else None)
    return clean, adv, after_clean if bn_update == "clean" else after_adv
