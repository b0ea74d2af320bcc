"""Checks on the logits and images of one batch: pure functions of arrays.

Ref: Croce and Hein, arXiv:2003.01690 (the flags of AutoAttack); Carlini et al., On
Evaluating Adversarial Robustness, arXiv:1902.06705.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

from jaxrobust import losses, metrics
from jaxrobust.evaluators.check import Check

PROBABILITY_SLACK = 1e-3
MAX_SATURATED = 0.05
SIGNIFICANCE = 0.05


def logits_are_not_probabilities(logits: Array) -> Check:
    """That rows neither sum to one within [0,1] nor are the logarithms of such."""
    values = np.asarray(logits, np.float32)
    low, high, sums = values.min(), values.max(), values.sum(1)
    slack = PROBABILITY_SLACK
    plain = low >= -slack and high <= 1 + slack and np.all(abs(sums - 1) < slack)
    total = np.asarray(jax.nn.logsumexp(jnp.asarray(values), axis=1))
    logs = high <= slack and bool(np.all(abs(total) < slack))
    kind = "probabilities" if plain else "log-probabilities" if logs else "logits"
    return Check(
        "logits are not probabilities",
        kind == "logits",
        f"{kind}: values {low:.3g}..{high:.3g}, rows sum to {sums.mean():.3g}",
        "give logits: a second softmax flattens every gradient that attacks follow",
    )


def cross_entropy_is_not_saturated(logits: Array, label: Array) -> Check:
    """That p_y = softmax(z)_y is below 1 in float32 on at least 95 % of the images.

    Where it is 1 the gradient of the cross-entropy is exactly zero.
    """
    logits = jnp.asarray(logits, jnp.float32)
    own = losses.of_class(jax.nn.softmax(logits), label)
    share = float(np.mean(np.asarray(own) == 1))
    margin = float(jnp.median(-losses.margin(logits, label)))
    value = f"p_y is 1 in float32 on {share:.1%}, median margin {margin:.3g}"
    note = "attack the margin or DLR loss: they do not change with the logits' scale"
    return Check("cross-entropy is not saturated", share <= MAX_SATURATED, value, note)


def enough_classes(num_classes: int, components: Sequence[str]) -> Check:
    """That AutoAttack's losses exist: its targeted DLR loss needs four classes.

    `components` are the names of the attacks that run instead or anyway.
    """
    value = f"{num_classes} classes, attacked by {', '.join(components)}"
    note = "with fewer than 4 classes report the components, not AutoAttack (standard)"
    return Check("enough classes for AutoAttack", num_classes >= 4, value, note)


def images_are_square(image: Array) -> Check:
    """That H = W, as the published attacks take for granted."""
    height, width = image.shape[1:3]
    note = (
        "published AutoAttack fails on other shapes; ours uses min(H, W) for the "
        "windows of Square"
    )
    return Check("square images", height == width, f"{height}x{width}", note)


def clean_accuracy_is_plausible(logits: Array, label: Array) -> Check:
    """That a blind guess (p = 1/K) would hardly be right so often (p-value <= 0.05)."""
    right = int(jnp.sum(metrics.correct(logits, label)))
    count, chance = len(label), 1.0 / logits.shape[1]
    value = f"{right} of {count} right, chance {chance:.1%}"
    note = (
        "near chance: is normalisation part of the network, are classes in its order?"
    )
    if chance**count > SIGNIFICANCE:
        return Check("clean accuracy is plausible", True, f"{value}: too few", note)
    luck = float(stats.binom.sf(right - 1, count, chance))
    return Check("clean accuracy is plausible", luck <= SIGNIFICANCE, value, note)
