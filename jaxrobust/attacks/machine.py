"""Iterated attacks as machines whose rows each stand at their own step.

A row is one image in one run (a restart, or a target class). As no row sees another,
rows that are done can be replaced by waiting ones at any time: a driver keeps the
device full, and which rows share a batch never shows in the result.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses, metrics
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn


class Work(NamedTuple):
    """What rows are about: `keys` [B], `image` f32[B,H,W,C], `label` i32[B] and the
    class `other` i32[B] to drive the image to, which only targeted runs read."""

    keys: Array
    image: Array
    label: Array
    other: Array


class Machine(NamedTuple):
    """An attack as a loop body. Its states are NamedTuples of arrays [B, ...] with
    `found` bool[B], `x_adv` (valid where found) and `x_best` (the strongest so far).

    `step(work, logits_fn, state, position)` takes the rows from step `position` i32[B],
    below `num_steps`, to the next. `forwards` and `backwards` are what a step costs.
    """

    num_steps: int
    start: Callable[[Work], Any]
    step: Callable[[Work, LogitsFn, Any, Array], Any]
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Component:
    """A machine and its runs: restarts with fresh keys, or target classes by rank.

    Hashable by value, so that equal components share their compiled programs.
    """

    name: str
    build: Callable[..., Machine]
    options: tuple[tuple[str, Any], ...]
    runs: int
    targeted: bool

    def machine(self, threat: ThreatModel) -> Machine:
        """The machine for this ball."""
        return self.build(threat, **dict(self.options))

    @property
    def stream(self) -> int:
        """A number for its random stream, the same in any list of components."""
        return zlib.crc32(self.name.encode()) & 0x7FFFFFFF


def running(machine: Machine, state: Any, position: Array) -> Array:
    """bool[B]: rows that neither fooled the network nor used up their steps."""
    return (position < machine.num_steps) & ~state.found


def advance(
    machine: Machine,
    logits_fn: LogitsFn,
    work: Work,
    state: Any,
    position: Array,
    max_steps: Array | int,
    idle_below: Array | int,
) -> tuple[Any, Array, Array]:
    """Step until `max_steps` are done or at most `idle_below` rows are still running.

    Returns (state, position, steps done). Rows that are not running keep what they
    found.
    """

    def go_on(carry) -> Array:
        state, position, count = carry
        alive = jnp.sum(running(machine, state, position))
        return (count < max_steps) & (alive > idle_below)

    def body(carry):
        state, position, count = carry
        alive = running(machine, state, position)
        new = machine.step(work, logits_fn, state, position)
        new = new._replace(
            found=state.found | (new.found & alive),
            x_adv=where_rows(alive, new.x_adv, state.x_adv),
        )
        return new, position + alive.astype(jnp.int32), count + 1

    zero = jnp.zeros((), jnp.int32)
    return lax.while_loop(go_on, body, (state, position, zero))


def as_attack(component: Component, threat: ThreatModel) -> Attack:
    """The component as a plain attack: all its runs, one after the other.

    A row that no run fools comes back as the strongest point of its first run.
    """
    machine = component.machine(threat)

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        label = losses.hard(target)
        others = label[:, None]
        if component.targeted:
            others = ranked_others(logits_fn(image), label)

        def run(carry, number: Array):
            x, found = carry
            other = others[:, jnp.minimum(number, others.shape[1] - 1)]
            work = Work(fold_rows(keys, number), image, label, other)
            state = machine.start(work)
            state = state._replace(found=found)
            position = jnp.zeros(len(image), jnp.int32)
            state, _, _ = advance(
                machine, logits_fn, work, state, position, machine.num_steps, 0
            )
            x = where_rows((number == 0) & ~found, state.x_best, x)
            x = where_rows(state.found & ~found, state.x_adv, x)
            return (x, state.found), None

        nothing = jnp.zeros(len(image), bool)
        (x, _), _ = lax.scan(run, (image, nothing), jnp.arange(component.runs))
        return lax.stop_gradient(x)

    return attack


def ranked_others(logits: Array, label: Array) -> Array:
    """i32[B,K-1]: the classes other than the label, the most likely first."""
    own = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    ranked = jnp.argsort(-jnp.where(own, -jnp.inf, logits), axis=-1)
    return ranked[:, :-1].astype(jnp.int32)


def fold_rows(keys: Array, data: Array) -> Array:
    """Every key of keys[B] with a number, i32[B] or one for all, folded in."""
    data = jnp.broadcast_to(jnp.asarray(data, jnp.uint32), keys.shape)
    return jax.vmap(jax.random.fold_in)(keys, data)


def where_rows(rows: Array, this: Array, that: Array) -> Array:
    """Row by row one of two arrays [B, ...], by rows bool[B]."""
    return jnp.where(rows.reshape(-1, *(1,) * (this.ndim - 1)), this, that)


def fooled(logits: Array, label: Array) -> Array:
    """bool[B]: the prediction (the first of equals) is not the label, or is NaN."""
    return metrics.correct(logits, label) == 0
