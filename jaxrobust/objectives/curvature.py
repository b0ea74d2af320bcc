"""Flat losses without an attack: penalties on how the loss bends, or rises, around an
image.

Every gradient is that of the summed loss, so a row's penalty knows neither the batch
size nor, with running BatchNorm statistics, its neighbours.
"""

from collections.abc import Callable
from contextlib import nullcontext

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxrobust import losses
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.objectives.base import Objective, Outcome, batch_target
from jaxrobust.state import BN_MODES, Forward
from jaxrobust.types import Batch, LogitsFn, LossFn, PyTree

DIRECTIONS = ("gradient", "sign")
SIZES = ("squared", "norm")
VARIANTS = (*SIZES, "loss_difference")

_TINY = 1e-12
_PASSES = {"squared": 12.0, "norm": 12.0, "loss_difference": 7.0}
"""What the term costs: the slope at x, the other end, and the way back through both."""
_SLOPE_PASSES = 6.0


def curvature(
    curv_weight: float, curv_h: float, variant: str, direction: str, term_bn: str
) -> Objective:
    """CE(f(x), y) + curv_weight r(x), r the `curvature_term`; nothing is attacked.

    `curv_h` is an l2 length in [0,1] pixels. `term_bn` says which BatchNorm statistics
    r sees: the "running" ones, as the forward pass of CE has just left them and without
    a gradient, or those of the "batch", where rows are penalised for each other's
    losses. The pass of CE alone moves the running statistics. Weight 0 is `standard`.
    Raises `UserError` for an unknown name, a negative weight or a length not above 0.

    Ref: Xue et al., GUARD, arXiv:2403.10045 ("squared", "gradient"); Moosavi-Dezfooli
    et al., CURE, arXiv:1811.09716, equation 7 ("squared", "sign"). Deviates: the
    released code takes gradients of the mean loss, which divides "norm" by the batch
    size; docs/guard.md has the conversion.
    """
    _check("curv_weight", curv_weight, term_bn)
    _check_names(variant, direction)
    if not curv_h > 0:
        raise UserError(f"curv_h must be above 0, not {curv_h:g}: try 0.6 (l2, pixels)")

    def term(logits_fn: LogitsFn, batch: Batch) -> Array:
        ce, target = losses.cross_entropy, batch.target
        return curvature_term(
            logits_fn, ce, batch.image, target, curv_h, variant, direction
        )

    return _regularised(curv_weight, term, term_bn, _PASSES[variant])


def gradient_norm(grad_weight: float, variant: str, term_bn: str) -> Objective:
    """CE(f(x), y) + grad_weight ||grad_x CE(f(x), y)||, or its square.

    `variant` "norm" | "squared"; `term_bn` and errors as in `curvature`.

    Ref: Drucker and LeCun, Improving Generalization Performance Using Double
    Backpropagation (1992); the baseline GR of GUARD is "norm". Deviates: the released
    GR detaches the image gradient, which makes of the penalty a constant.
    """
    _check("grad_weight", grad_weight, term_bn)
    if variant not in SIZES:
        raise unknown_name("variant", variant, SIZES)

    def term(logits_fn: LogitsFn, batch: Batch) -> Array:
        slope, _ = image_gradient(logits_fn, losses.cross_entropy, batch.target)(
            batch.image
        )
        return _size(slope, variant)

    return _regularised(grad_weight, term, term_bn, _SLOPE_PASSES)


def curvature_term(
    logits_fn: LogitsFn,
    loss: LossFn,
    image: Array,
    target: Array,
    curv_h: float | Array,
    variant: str,
    direction: str,
) -> Array:
    """How the loss l bends along its own gradient g, f32[B], without a weight.

    With z = g / ||g|| ("gradient") or sign(g) / ||sign(g)|| ("sign"), a constant, and
    d = grad l(x + h z) - grad l(x):

        "squared"          ||d||^2
        "norm"             ||d||
        "loss_difference"  |l(x + h z) - l(x)|, to first order in h the slope along z

    x + h z is not clipped to the pixels' range: a clipped step measures no curvature.
    Where g is 0 so is z, and the term. Differentiable in whatever `logits_fn` closes
    over. Ref: as `curvature`. Deviates: the released code adds 1e-7 to every entry of
    the gradient of the mean loss, which turns z towards (1, ..., 1) and lengthens it on
    images that the network is sure of.
    """
    _check_names(variant, direction)
    gradient = image_gradient(logits_fn, loss, target)
    slope, (value, _) = gradient(image)
    moved = image + curv_h * unit_direction(slope, direction)
    if variant == "loss_difference":
        return jnp.abs(loss(logits_fn(moved), target) - value)
    return _size(gradient(moved)[0] - slope, variant)


def unit_direction(slope: Array, direction: str) -> Array:
    """z [B,...] of `curvature_term`: length 1, or 0 where the slope is; a constant."""
    slope = jax.lax.stop_gradient(slope)
    along = jnp.sign(slope) if direction == "sign" else slope
    return along / jnp.maximum(_size(along, "norm", keepdims=True), _TINY)


def _size(rows: Array, variant: str, keepdims: bool = False) -> Array:
    """||row|| or its square; the slope of the norm at 0 is 0 and not NaN."""
    axes = tuple(range(1, rows.ndim))
    squared = jnp.sum(jnp.square(rows), axis=axes, keepdims=keepdims)
    if variant == "squared":
        return squared
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _regularised(
    weight: float,
    term: Callable[[LogitsFn, Batch], Array],
    term_bn: str,
    term_passes: float,
) -> Objective:
    """Cross-entropy of the clean images + weight * term."""

    def outer(forward: Forward, batch: Batch, x_adv: Array) -> Outcome:
        logits, stats = forward(batch.image, None)
        loss = losses.cross_entropy(logits, batch.target)
        if weight:
            logits_fn = _term_network(forward, stats, term_bn)
            loss = loss + weight * term(logits_fn, batch)
        return Outcome(loss, logits, stats)

    # With the statistics of the batch both losses share the pass at x. (Networks
    # without BatchNorm share it always: one pass less than said here.)
    shared = 1.0 if term_bn == "batch" else 0.0
    passes = 3.0 + (term_passes - shared if weight else 0.0)
    return Objective(None, outer, batch_target, passes)


def _term_network(forward: Forward, stats: PyTree, term_bn: str) -> LogitsFn:
    """`forward` as a function of images alone, its new statistics dropped."""
    running = term_bn == "running"
    stats = jax.lax.stop_gradient(stats) if running else None

    def logits_fn(image: Array) -> Array:
        frozen = nn.intercept_methods(_on_running_statistics)
        with frozen if running else nullcontext():
            return forward(image, stats)[0]

    return logits_fn


def _on_running_statistics(call: Callable, args, kwargs, context):
    """Runs each BatchNorm of a training-mode pass in evaluation mode.

    An objective is given a training-mode pass only, and BatchNorm is all that tells the
    two modes of our networks apart.
    """
    norm = context.module
    if not isinstance(norm, nn.BatchNorm) or norm.use_running_average:
        return call(*args, **kwargs)
    frozen = norm.clone(parent=None, use_running_average=True)
    return frozen.apply(norm.variables, *args, **kwargs)


def _check(kind: str, weight: float, term_bn: str) -> None:
    if not weight >= 0:
        raise UserError(f"{kind} must be at least 0, not {weight:g}: 0 is no penalty")
    if term_bn not in BN_MODES:
        raise unknown_name("term_bn", term_bn, BN_MODES)


def _check_names(variant: str, direction: str) -> None:
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    if direction not in DIRECTIONS:
        raise unknown_name("direction", direction, DIRECTIONS)
