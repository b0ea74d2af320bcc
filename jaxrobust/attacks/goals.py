"""What APGD climbs, and the slope of it: one gradient, or a mean over random draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses
from jaxrobust.attacks.machine import Work, fold_rows
from jaxrobust.errors import UserError

GoalFn = Callable[[Array, Work], Array]
"""(logits f32[B,K], work) -> f32[B], what to maximise."""


def _dlr(logits: Array, work: Work) -> Array:
    _need_classes("dlr", logits, 3)
    return losses.dlr(logits, work.label)


def _dlr_targeted(logits: Array, work: Work) -> Array:
    _need_classes("dlr_targeted", logits, 4)
    return losses.dlr_targeted(logits, work.label, work.other)


def _need_classes(goal: str, logits: Array, least: int) -> None:
    if logits.shape[-1] < least:
        raise UserError(
            f"goal {goal} needs {least} classes, this network has "
            f"{logits.shape[-1]}: use goal margin"
        )


GOALS: dict[str, GoalFn] = {
    "cross_entropy": lambda logits, work: losses.cross_entropy(logits, work.label),
    "dlr": _dlr,
    "margin": lambda logits, work: losses.margin(logits, work.label),
    "dlr_targeted": _dlr_targeted,
}


def ascent(
    goal: GoalFn, eot: int, work: Work, logits_fn, x: Array, position: Array
) -> tuple[Array, Array, Array]:
    """(d sum_i goal_i / dx, goal f32[B], logits f32[B,K]) at x.

    With `eot` > 1 the network is `logits_fn(x, keys)` and draws that many times: the
    slope is the mean, goal and logits are those of the last draw.
    """

    def total(x: Array, *keys: Array):
        logits = logits_fn(x, *keys)
        values = goal(logits, work)
        return jnp.sum(values), (values, logits)

    slope_at = jax.grad(total, has_aux=True)
    if eot == 1:
        slope, (loss, logits) = slope_at(x)
        return slope, loss, logits
    keys = fold_rows(work.keys, position)

    def draw(slopes: Array, number: Array):
        slope, aux = slope_at(x, fold_rows(keys, number))
        return slopes + slope / eot, aux

    slope, (loss, logits) = lax.scan(draw, jnp.zeros_like(x), jnp.arange(eot))
    return slope, loss[-1], logits[-1]
