"""Projected gradient ascent, the work-horse of training and of quick evaluation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.attacks import keep
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.attacks.machine import fold_rows
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn, LossFn

Climb = Callable[[LogitsFn, Array, Array, Array], keep.Kept]
"""(logits_fn, image, target, x) -> (x_adv, its margin f32[B]), from `x` onwards."""

STARTS = ("uniform", "gaussian", "none")
_GAUSSIAN_SCALE = 1e-3


def pgd(
    threat: ThreatModel,
    loss: LossFn,
    step_size: Array | float,
    num_steps: int,
    start: str,
    num_restarts: int,
    keep_best: bool,
) -> Attack:
    """x <- P[x + step_size * steepest(grad_x sum_i loss_i)], `num_steps` times.

    `step_size` has the unit of eps (and, like it, may be one for each image,
    f32[B,1,1,1]). `start` is a draw from the ball ("uniform"), 0.001
    times a normal draw ("gaussian", as in TRADES) or the image ("none"). With
    `keep_best` or several restarts each row returns its iterate of largest margin (so
    an iterate that fooled the network is never lost), at the price of one more forward
    pass; without, the last iterate.

    Ref: Madry et al., arXiv:1706.06083, section 2.1.
    """
    if start not in STARTS:
        raise unknown_name("start of pgd", start, STARTS)

    keeps = keep_best or num_restarts > 1
    climb = pgd_from(threat, loss, step_size, num_steps)

    def last_iterate(x: Array, gradient, image: Array) -> Array:
        body = lambda _, x: _ascend(threat, step_size, x, gradient(x)[0], image)
        return lax.fori_loop(0, num_steps, body, x)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        if not keeps:
            gradient = image_gradient(logits_fn, loss, target)
            x = _start(threat, start, keys, image)
            return lax.stop_gradient(last_iterate(x, gradient, image))

        def restart(best, number):
            x = _start(threat, start, fold_rows(keys, number), image)
            return keep.larger(best, *climb(logits_fn, image, target, x)), None

        numbers = jnp.arange(num_restarts)
        (x, _), _ = lax.scan(restart, keep.none_yet(image), numbers)
        return lax.stop_gradient(x)

    return attack


def pgd_from(
    threat: ThreatModel, loss: LossFn, step_size: Array | float, num_steps: int
) -> Climb:
    """PGD from a point `x` of the ball: (logits_fn, image, target, x) -> (the iterate
    of largest margin, `x` among them, and that margin f32[B])."""

    def climb(logits_fn: LogitsFn, image: Array, target: Array, x: Array) -> keep.Kept:
        gradient = image_gradient(logits_fn, loss, target)

        def body(_, carry):
            x, best = carry
            g, (_, logits) = gradient(x)
            moved = _ascend(threat, step_size, x, g, image)
            return moved, keep.better(best, x, logits, target)

        x, best = lax.fori_loop(0, num_steps, body, (x, keep.none_yet(x)))
        return keep.better(best, x, logits_fn(x), target)

    return climb


def pgd_split(
    threat: ThreatModel,
    loss: LossFn,
    step_size: Array | float,
    num_steps: int,
    start: str,
    first_steps: int,
):
    """PGD in two parts, between which a caller may drop rows.

    begin(keys, logits_fn, image, target) -> (x after `first_steps`, loss f32[B] at the
    point before: it comes with the gradient). finish(logits_fn, image, target, x) is
    the rest. Raises `UserError` unless 1 <= first_steps <= num_steps.
    """
    if not 1 <= first_steps <= num_steps:
        raise UserError(
            f"first_steps is 1 to num_steps = {num_steps}, not {first_steps}"
        )

    def begin(keys: Array, logits_fn: LogitsFn, image: Array, target: Array):
        gradient = image_gradient(logits_fn, loss, target)

        def body(_, carry):
            g, (values, _) = gradient(carry[0])
            return _ascend(threat, step_size, carry[0], g, image), values

        x = _start(threat, start, keys, image)
        begun = x, jnp.zeros(len(x))
        return lax.stop_gradient(lax.fori_loop(0, first_steps, body, begun))

    def finish(logits_fn: LogitsFn, image: Array, target: Array, x: Array) -> Array:
        gradient = image_gradient(logits_fn, loss, target)
        body = lambda _, x: _ascend(threat, step_size, x, gradient(x)[0], image)
        return lax.stop_gradient(lax.fori_loop(0, num_steps - first_steps, body, x))

    return begin, finish


def _ascend(threat: ThreatModel, step_size, x: Array, g: Array, image: Array) -> Array:
    return threat.project(x + step_size * threat.steepest(g), image)


def _start(threat: ThreatModel, start: str, keys: Array, image: Array) -> Array:
    if start == "uniform":
        return threat.random_init(keys, image)
    if start == "gaussian":
        draw = lambda key: jax.random.normal(key, image.shape[1:])
        return threat.project(image + _GAUSSIAN_SCALE * jax.vmap(draw)(keys), image)
    return image
