"""Auto-PGD: projected gradient ascent that finds its own step size."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrobust.attacks.apgd_l1 import apgd_l1_machine
from jaxrobust.attacks.goals import GOALS, ascent
from jaxrobust.attacks.machine import (
    Component,
    Machine,
    Work,
    as_attack,
    fooled,
    where_rows,
)
from jaxrobust.registry import lookup
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import Attack, LogitsFn

_MOMENTUM = 0.75
_TINY = 1e-12


class ApgdState(NamedTuple):
    """`x` is the next point to look at; `loss_mark` and `halved` are of the last
    checkpoint, `rises` counts the steps since then that raised the loss."""

    x: Array
    x_old: Array
    x_best: Array
    slope_best: Array
    loss_best: Array
    loss_last: Array
    loss_mark: Array
    rises: Array
    step_size: Array
    halved: Array
    x_adv: Array
    found: Array


def checkpoints(num_steps: int) -> np.ndarray:
    """i32[num_steps]: at a checkpoint the steps since the one before, elsewhere 0.

    Windows begin at 22% of the steps and shrink by 3% down to 6%.

    Ref: Croce and Hein, arXiv:2003.01690, section 3.1.
    """
    window = max(int(0.22 * num_steps), 1)
    least, shrink = max(int(0.06 * num_steps), 1), max(int(0.03 * num_steps), 1)
    windows, last = np.zeros(num_steps, np.int32), -1
    for step in range(num_steps):
        if step - last == window:
            windows[step], last = window, step
            window = max(window - shrink, least)
    return windows


def apgd_machine(
    threat: ThreatModel, goal: str, num_steps: int, rho: float, eot: int
) -> Machine:
    """Steps of 2 eps that are halved wherever ascent stalls; momentum 0.75.

    z = P[x + s steepest(g)]; x' = P[x + 0.75 (z - x) + 0.25 (x - x_old)]. At each
    checkpoint a row halves s and returns to its best point if fewer than a `rho` share
    of the steps rose, or if the best loss has not moved since a checkpoint that did not
    halve. `num_steps` + 1 evaluations: the start counts as one. With `eot` > 1 the
    network is `logits_fn(x, keys)` and gradients are means over that many draws.

    Ref: Croce and Hein, arXiv:2003.01690, algorithm 1; the l1 form arXiv:2103.01208.
    Deviates: a row stops at its first success. Kept from the released code: the first
    loss after the start counts as a rise if it is above 0; x_old is not reset when a
    row returns to its best point; with `eot` success and loss are those of the last
    draw.
    """
    if threat.norm == "l1":
        return apgd_l1_machine(threat, GOALS[goal], num_steps, eot)
    windows = jnp.asarray(np.concatenate([[0], checkpoints(num_steps)]))
    slope_of = partial(ascent, GOALS[goal], eot)

    def start(work: Work) -> ApgdState:
        x = _surface(threat, work)
        zero = jnp.zeros(len(x))
        no, yes = jnp.zeros(len(x), bool), jnp.ones(len(x), bool)
        size, nowhere = 2.0 * threat.eps_of_rows(x), jnp.zeros_like(x)
        return ApgdState(x, x, x, nowhere, zero, zero, zero, zero, size, yes, x, no)

    def step(work: Work, logits_fn: LogitsFn, s: ApgdState, position: Array):
        first = position == 0
        slope, loss, logits = slope_of(work, logits_fn, s.x, position)
        s = _look(s, first, slope, loss)
        s = s._replace(
            # The released code compares the first loss with an empty (zero) slot.
            rises=s.rises
            + (~first & (loss > jnp.where(position == 1, 0.0, s.loss_last))),
            loss_last=loss,
            found=fooled(logits, work.label),
            x_adv=s.x,
        )
        s, x, slope = _checkpoint(s, slope, windows[position], first, rho)
        moved = threat.project(
            x + column(s.step_size) * threat.steepest(slope), work.image
        )
        push = column(jnp.where(first, 1.0, _MOMENTUM))
        drift = x - where_rows(first, x, s.x_old)
        mixed = threat.project(
            x + push * (moved - x) + (1.0 - push) * drift, work.image
        )
        return s._replace(x=mixed, x_old=x)

    return Machine(num_steps + 1, start, step, forwards=eot, backwards=eot)


def _look(s: ApgdState, first: Array, slope: Array, loss: Array) -> ApgdState:
    """Remember the best point and, at the start, the loss to compare with."""
    better = first | (loss > s.loss_best)
    return s._replace(
        x_best=where_rows(better, s.x, s.x_best),
        slope_best=where_rows(better, slope, s.slope_best),
        loss_best=jnp.where(better, loss, s.loss_best),
        loss_mark=jnp.where(first, loss, s.loss_mark),
    )


def _checkpoint(s: ApgdState, slope: Array, window: Array, first: Array, rho: float):
    """(state, x, slope) after the two conditions of the paper, where window > 0."""
    here = (window > 0) & ~first
    stalled = s.rises <= rho * window
    flat = ~s.halved & (s.loss_mark >= s.loss_best)
    halve = here & (stalled | flat)
    x = where_rows(halve, s.x_best, s.x)
    slope = where_rows(halve, s.slope_best, slope)
    s = s._replace(
        step_size=jnp.where(halve, s.step_size / 2.0, s.step_size),
        halved=jnp.where(here, halve, s.halved),
        loss_mark=jnp.where(here, s.loss_best, s.loss_mark),
        rises=jnp.where(here, 0.0, s.rises),
    )
    return s, x, slope


def _surface(threat: ThreatModel, work: Work) -> Array:
    """A draw on the surface of the ball, clipped to the box."""
    shape = work.image.shape[1:]
    if threat.norm == "linf":
        draw = lambda key: jax.random.uniform(key, shape, minval=-1.0)
    else:
        draw = lambda key: jax.random.normal(key, shape)
    t = jax.vmap(draw)(work.keys)
    size = threat.distance(t, jnp.zeros_like(t))
    return threat.clip(work.image + threat.eps * t / column(size + _TINY))


def apgd_component(
    name: str, goal: str, num_steps: int, runs: int, rho: float = 0.75, eot: int = 1
) -> Component:
    """APGD over `runs` restarts, or target classes where the goal is targeted."""
    options = (("goal", goal), ("num_steps", num_steps), ("rho", rho), ("eot", eot))
    return Component(name, apgd_machine, options, runs, goal == "dlr_targeted")


def apgd(
    threat: ThreatModel, goal: str, num_steps: int, num_restarts: int, rho: float
) -> Attack:
    """`apgd_machine` as an attack: the first success, else the strongest point.

    `goal` is cross_entropy, dlr, margin, or dlr_targeted, where restarts are the target
    classes in the order of their clean logits.
    """
    lookup("goal of apgd", GOALS, goal)
    component = apgd_component("apgd", goal, num_steps, num_restarts, rho)
    return as_attack(component, threat)
