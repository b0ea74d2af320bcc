"""Losses over logits, one number for each example; nothing here reduces over a
batch."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrobust.types import LossFn

_TINY = 1e-12


def cross_entropy(logits: Array, target: Array) -> Array:
    """-sum_k p_k log softmax(z)_k, f32[B]; target i32[B] labels or f32[B,K] p."""
    if target.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, target)
    return optax.softmax_cross_entropy(logits, target)


def margin(logits: Array, target: Array) -> Array:
    """max_{k != y} z_k - z_y, f32[B]: positive exactly where the image is misread.

    Unclipped, so that its gradient does not vanish once an image is fooled.

    Ref: Carlini and Wagner, arXiv:1608.04644, loss f_6 with no confidence floor.
    """
    own = jax.nn.one_hot(hard(target), logits.shape[-1], dtype=bool)
    other = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return other - jnp.sum(jnp.where(own, logits, 0.0), axis=-1)


def dlr(logits: Array, target: Array) -> Array:
    """-(z_y - max_{k != y} z_k) / (z_(1) - z_(3)), f32[B], sorted z; free of scale.

    Needs three classes. Ref: Croce and Hein, arXiv:2003.01690, equation 6.
    """
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, target) / (top[:, 0] - top[:, 2] + _TINY)


def dlr_targeted(logits: Array, label: Array, other: Array) -> Array:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), f32[B], for target classes t.

    Needs four classes. Ref: Croce and Hein, arXiv:2003.01690, equation 7.
    """
    top = jax.lax.top_k(logits, 4)[0]
    scale = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY
    return (of_class(logits, other) - of_class(logits, label)) / scale


def kl_divergence(logits: Array, target: Array) -> Array:
    """KL(p || softmax(z)) = sum_k p_k (log p_k - log softmax(z)_k), f32[B]; target
    p."""
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jax.scipy.special.xlogy(target, target) - target * log_q, axis=-1)


def kl_between(clean_logits: Array, adv_logits: Array) -> Array:
    """KL(softmax(z) || softmax(z')), f32[B], differentiable in both arguments."""
    log_p, log_q = jax.nn.log_softmax(clean_logits), jax.nn.log_softmax(adv_logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def boosted_cross_entropy(logits: Array, target: Array) -> Array:
    """CE(z, y) - log(1 - max_{k != y} softmax(z)_k), f32[B].

    Ref: Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified
    Examples (ICLR 2020), eq. 9.
    """
    own = jax.nn.one_hot(hard(target), logits.shape[-1], dtype=bool)
    other = jnp.max(jnp.where(own, 0.0, jax.nn.softmax(logits)), axis=-1)
    return cross_entropy(logits, target) - jnp.log1p(-jnp.minimum(other, 1.0 - 1e-6))


def of_class(values: Array, label: Array) -> Array:
    """values f32[B,K] at each row's class i32[B], f32[B]."""
    return jnp.take_along_axis(values, label[:, None], axis=1)[:, 0]


def hard(target: Array) -> Array:
    """i32[B] labels of a target that may be a distribution f32[B,K]."""
    return target if target.ndim == 1 else jnp.argmax(target, axis=-1)


def log_sum_exp_error(logits: Array) -> Array:
    """sum_c (log sum_k exp z_k - z_c), f32[B]: an error that reads no label."""
    total = jax.scipy.special.logsumexp(logits, axis=-1)
    return logits.shape[-1] * total - jnp.sum(logits, axis=-1)


def smooth_labels(label: Array, num_classes: int, smoothing: Array) -> Array:
    """(1 - s) onehot(y) + s / K, f32[B,K], with one s in [0,1] for each row, f32[B]."""
    one_hot = jax.nn.one_hot(label, num_classes)
    return one_hot + smoothing[:, None] * (1.0 / num_classes - one_hot)


LOSSES: dict[str, LossFn] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "kl_divergence": kl_divergence,
}
"""Losses that an attack can be told to maximise, by name."""
