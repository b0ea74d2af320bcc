"""Auto-PGD in the l1 ball: sparse steps in a ball that shrinks to the threat's."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrobust.attacks.goals import GoalFn, ascent
from jaxrobust.attacks.machine import Machine, Work, fooled, where_rows
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import LogitsFn

RADII = (3.0, 2.0, 1.0)
"""The ball of each stage, in eps."""
_DECAY, _LEAST = 1.5, 0.1
_TINY = 1e-10


class ApgdL1State(NamedTuple):
    """`x` is the next point to look at; `changed` i32[B] counts the pixel values that
    differed from the image at the last checkpoint; the bests are of this stage."""

    x: Array
    x_best: Array
    slope_best: Array
    loss_best: Array
    step_size: Array
    changed: Array
    x_adv: Array
    found: Array


class Stages(NamedTuple):
    """What the position of a row says: its stage's radius in eps and that of the next
    position, whether it opens or closes a stage, is a checkpoint, or counts."""

    radius: Array
    radius_next: Array
    opens: Array
    closes: Array
    checkpoint: Array
    counts: Array


def stages(num_steps: int) -> Stages:
    """30%, 30% and 40% of `num_steps` in balls of 3, 2 and 1 eps, plus one evaluation
    for the start of each; every array has one entry for each evaluation.

    Ref: Croce and Hein, arXiv:2103.01208, section 4.
    """
    third = -(-3 * num_steps // 10)
    lengths = (third, third, max(num_steps - 2 * third, 1))
    local = np.concatenate([np.arange(length + 1) for length in lengths])
    stage = np.repeat(np.arange(3), np.add(lengths, 1))
    length = np.take(lengths, stage)
    every = np.maximum(length // 25, 1)
    radius = jnp.take(jnp.asarray(RADII), jnp.asarray(stage))
    return Stages(
        radius=radius,
        radius_next=jnp.append(radius[1:], radius[-1]),
        opens=jnp.asarray(local == 0),
        closes=jnp.asarray((local == length) & (stage < 2)),
        checkpoint=jnp.asarray((local > 0) & (local % every == 0)),
        counts=jnp.asarray(stage == 2),
    )


def apgd_l1_machine(
    threat: ThreatModel, goal: GoalFn, num_steps: int, eot: int
) -> Machine:
    """x' = P[x + s sign(g_top) / ||sign(g_top)||_1], g_top the largest values of |g|.

    With n the number of changed values ||x_best - image||_0 at a checkpoint (each step
    up to 100 steps), the next steps move the ceil(n / 1.5) values of largest |g|. Where
    n fell by more than 5%, s becomes the radius again and the row returns to its best
    point; else s shrinks by 1.5, down to a tenth of the radius. Every stage of `stages`
    begins at the projected best point of the one before; only the last one can find
    anything.

    Ref: Croce and Hein, Mind the box, arXiv:2103.01208, algorithm 1.
    Deviates: a row stops at its first success; a value counts as changed only where it
    is (the released code counts rounding errors of undone steps too, and rounds
    n / 1.5 in floating point).
    """
    table = stages(num_steps)
    slope_of = partial(ascent, goal, eot)

    def start(work: Work) -> ApgdL1State:
        draw = lambda key: jax.random.normal(key, work.image.shape[1:])
        x = work.image + jax.vmap(draw)(work.keys)
        x = _within(threat, RADII[0], x, work.image)
        zero, count = jnp.zeros(len(x)), jnp.zeros(len(x), jnp.int32)
        nothing = jnp.zeros(len(x), bool)
        return ApgdL1State(x, x, jnp.zeros_like(x), zero, zero, count, x, nothing)

    def step(work: Work, logits_fn: LogitsFn, s: ApgdL1State, position: Array):
        here = Stages(*(values[position] for values in table))
        slope, loss, logits = slope_of(work, logits_fn, s.x, position)
        full = threat.eps_of_rows(s.x) * here.radius
        s = _look(s, here.opens, slope, loss, full, work.image)
        s = s._replace(x_adv=s.x, found=here.counts & fooled(logits, work.label))
        s, x, slope = _checkpoint(s, slope, here.checkpoint, full, work.image)
        sign = largest_signs(slope, -(-2 * s.changed // 3))
        size = jnp.sum(jnp.abs(sign), (1, 2, 3), keepdims=True) + _TINY
        x = where_rows(here.closes, s.x_best, x + column(s.step_size) * sign / size)
        radius = jnp.where(here.closes, here.radius_next, here.radius)
        return s._replace(x=_within(threat, column(radius), x, work.image))

    evaluations = len(table.radius)
    return Machine(evaluations, start, step, forwards=eot, backwards=eot)


def _within(threat: ThreatModel, radius: Array | float, x: Array, image: Array):
    return replace(threat, eps=radius * threat.eps).project(x, image)


def _look(
    s: ApgdL1State, opens: Array, slope: Array, loss: Array, full: Array, image: Array
) -> ApgdL1State:
    """Remember the best point; where a stage opens, begin its books."""
    better = opens | (loss > s.loss_best)
    return s._replace(
        x_best=where_rows(better, s.x, s.x_best),
        slope_best=where_rows(better, slope, s.slope_best),
        loss_best=jnp.where(better, loss, s.loss_best),
        step_size=jnp.where(opens, full, s.step_size),
        changed=jnp.where(opens, _changed(s.x, image), s.changed),
    )


def _checkpoint(
    s: ApgdL1State, slope: Array, here: Array, full: Array, image: Array
) -> tuple[ApgdL1State, Array, Array]:
    """(state, x, slope) after adapting step size and sparsity, where bool[B] `here`."""
    changed = _changed(s.x_best, image)
    sparser = here & (20 * changed < 19 * s.changed)
    decayed = jnp.maximum(s.step_size / _DECAY, _LEAST * full)
    size = jnp.where(here, jnp.where(sparser, full, decayed), s.step_size)
    x = where_rows(sparser, s.x_best, s.x)
    slope = where_rows(sparser, s.slope_best, slope)
    count = jnp.where(here, changed, s.changed)
    return s._replace(step_size=size, changed=count), x, slope


def _changed(x: Array, image: Array) -> Array:
    """||x - image||_0, i32[B]."""
    return jnp.sum(x != image, (1, 2, 3), dtype=jnp.int32)


def largest_signs(slope: Array, count: Array) -> Array:
    """sign(slope) of the max(count, 1) largest |slope| of each row, 0 elsewhere; equals
    of the smallest of them stay too.

    The bits of positive floats are ordered like the floats, so that the threshold
    follows bit by bit, exactly and without a sort.
    """
    bits = 8 * slope.dtype.itemsize
    kind = jnp.dtype(f"int{bits}")
    order = lax.bitcast_convert_type(jnp.abs(slope), kind)
    count = jnp.maximum(count, 1)

    def raise_by(step: Array, threshold: Array) -> Array:
        higher = threshold | (jnp.ones((), kind) << (bits - 2 - step).astype(kind))
        enough = jnp.sum(order >= column(higher), (1, 2, 3)) >= count
        return jnp.where(enough, higher, threshold)

    threshold = lax.fori_loop(0, bits - 1, raise_by, jnp.zeros(len(slope), kind))
    return jnp.where(order >= column(threshold), jnp.sign(slope), 0.0)
