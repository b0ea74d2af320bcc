"""Runs one component of an attack suite over a whole set, keeping the device full.

Images wait, once for each run; a batch has slots. As soon as enough slots are idle,
because their images are fooled or have used up their steps, waiting ones take them.
Rows are independent, so flags do not depend on any of this.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import rng, sharding
from jaxrobust.attacks.machine import (
    Component,
    Machine,
    Work,
    advance,
    fold_rows,
    running,
    where_rows,
)
from jaxrobust.evaluators.predict import as_tree
from jaxrobust.loader import to_unit
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn

REFILL_SHARE = 0.1
LONG_STEPS = 500
"""From so many steps on, a batch of fitting size is worth compiling for."""


class Images(NamedTuple):
    """What is attacked, on the host: `gather(index)` gives u8 or f32 [n,H,W,C]; `label`
    i32[N]; `others` i32[N,K-1], wrong classes by their clean logits; `index` i32[N],
    the numbers that key the randomness."""

    gather: Callable[[np.ndarray], np.ndarray]
    label: np.ndarray
    others: np.ndarray
    index: np.ndarray


class Finished(NamedTuple):
    """Rows whose run has ended: positions in the set, run numbers, bool[n] fooled and
    the images f32[n,H,W,C] of the fooled ones (others hold no meaning). `in_flight` is
    the work still to do on the rows in the batch, in whole runs."""

    place: np.ndarray
    run: np.ndarray
    found: np.ndarray
    x_adv: np.ndarray
    in_flight: float


@dataclass
class Cost:
    """Passes of images through the network; `idle` are passes, of both kinds, of slots
    that had nothing left to do while their batch went on.

    A step costs what its `Machine` says. The K gradients that untargeted FAB pulls back
    through one forward pass count as one.
    """

    forwards: int = 0
    backwards: int = 0
    idle: int = 0


class _Slots(NamedTuple):
    """The batch on the device, all [B, ...]."""

    work: Work
    state: Any
    position: Array


@dataclass(frozen=True)
class Engine:
    """`batch_size` slots over `mesh`; the host looks at least every `chunk_steps`."""

    batch_size: int
    chunk_steps: int
    mesh: Mesh

    def run(
        self,
        component: Component,
        threat: ThreatModel,
        logits_fn: LogitsFn,
        images: Images,
        pending: np.ndarray,
        key: Array,
        cost: Cost,
    ) -> Iterator[Finished]:
        """Attack every place and run of bool[N,runs] `pending`, run by run, yielding
        what each look has found.

        What a slot takes is cleared in `pending`; the caller may clear more between
        looks: runs of an image that another run has fooled meanwhile.
        """
        logits_fn = as_tree(logits_fn)
        key = jax.random.fold_in(key, component.stream)
        machine = component.machine(threat)
        size = self._first_size(machine.num_steps, int(pending.sum()))
        holds, slots, batch = np.full((size, 2), -1), None, None
        while True:
            fresh = _fill(holds, pending)
            if not (holds[:, 0] >= 0).any():
                return
            if batch is None or fresh.any():
                batch = _fresh(images, holds, fresh)
            if slots is None:
                slots = _begin(component, self.mesh, threat, key, batch)
            idle_below = _idle_below(size) if pending.any() else 0
            slots, *seen = _turn(
                component, self.mesh, threat, logits_fn, key, slots, batch, fresh,
                self.chunk_steps, idle_below,
            )  # fmt: skip
            left, found, steps, worked = map(np.asarray, seen)
            _charge(cost, machine, int(steps) * size, int(worked))
            yield self._harvest(slots, holds, left, found, machine.num_steps)
            if self._fits_half(holds, int(left.max()), pending):
                size //= 2
                order = np.argsort(holds[:, 0] < 0, kind="stable")[:size]
                slots, holds = _take(self.mesh, slots, order), holds[order]
                batch = tuple(part[order] for part in batch)

    def _first_size(self, num_steps: int, count: int) -> int:
        """`batch_size`; for long runs the least that takes no more rounds of batches,
        so that the last round is full, too."""
        devices = self.mesh.devices.size
        if num_steps < LONG_STEPS or not count:
            return self.batch_size
        rounds = -(-count // self.batch_size)
        share = -(-count // rounds)
        return -(-share // devices) * devices

    def _harvest(
        self,
        slots: _Slots,
        holds: np.ndarray,
        left: np.ndarray,
        found: np.ndarray,
        num_steps: int,
    ) -> Finished:
        """What ended; its slots become free."""
        ended = (holds[:, 0] >= 0) & (left == 0)
        found = found[ended]
        x_adv = slots.state.x_adv
        # The images are fetched only where there is one to fetch.
        images = np.zeros((len(found), *x_adv.shape[1:]), np.float32)
        if found.any():
            images = np.asarray(sharding.gather(x_adv, self.mesh))[ended]
        number, place = holds[ended].T
        holds[ended] = -1
        return Finished(place, number, found, images, float(left.sum() / num_steps))

    def _fits_half(self, holds: np.ndarray, left: int, pending: np.ndarray) -> bool:
        """Whether a batch is mostly idle where much work is left to save."""
        size, busy = len(holds), (holds[:, 0] >= 0).sum()
        splits = size % (2 * self.mesh.devices.size) == 0
        worth_it = left >= LONG_STEPS and not pending.any()
        return splits and worth_it and 0 < busy <= size // 2


def _fill(holds: np.ndarray, pending: np.ndarray) -> np.ndarray:
    """Put waiting images into free slots; returns which slots got one, bool[B]."""
    free = np.flatnonzero(holds[:, 0] < 0)
    # Run by run over all images: a later run meets fewer of them.
    number, place = (x[: len(free)] for x in np.nonzero(pending.T))
    pending[place, number] = False
    fresh = np.zeros(len(holds), bool)
    fresh[free[: len(place)]] = True
    holds[fresh, 0], holds[fresh, 1] = number, place
    return fresh


def _fresh(images: Images, holds: np.ndarray, fresh: np.ndarray):
    """Host arrays for all slots; only those of `fresh` slots matter."""
    place = np.where(fresh, holds[:, 1], holds[fresh.argmax(), 1])
    number = np.maximum(holds[:, 0], 0)
    rank = np.minimum(number, images.others.shape[1] - 1)
    return (
        images.gather(place),
        images.label[place],
        images.others[place, rank],
        images.index[place],
        number.astype(np.int32),
    )


def _idle_below(size: int) -> int:
    """How many rows still run when it is time to fill the idle slots."""
    return size - max(1, round(REFILL_SHARE * size))


def _charge(cost: Cost, machine: Machine, slots: int, worked: int) -> None:
    """Book `worked` steps of rows in a turn of that many `slots`, idle ones too."""
    cost.forwards += worked * machine.forwards
    cost.backwards += worked * machine.backwards
    cost.idle += (slots - worked) * (machine.forwards + machine.backwards)


@partial(jax.jit, static_argnums=0)
def _take(mesh: Mesh, slots: _Slots, rows: Array) -> _Slots:
    return sharding.split_batch(jax.tree.map(lambda x: x[rows], slots), mesh)


@partial(jax.jit, static_argnums=(0, 1))
def _begin(
    component: Component, mesh: Mesh, threat: ThreatModel, key: Array, batch
) -> _Slots:
    """Slots of the right shapes whose steps are used up."""
    machine = component.machine(threat)
    work = _new_work(key, *sharding.split_batch(batch, mesh))
    position = jnp.full(len(work.label), machine.num_steps, jnp.int32)
    slots = _Slots(work, machine.start(work), position)
    return sharding.split_batch(slots, mesh)


def _new_work(key: Array, image, label, other, index, number) -> Work:
    image = to_unit(image) if image.dtype == np.uint8 else image
    keys = fold_rows(rng.per_example(key, index), number)
    return Work(keys, image, label, other)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=5)
def _turn(
    component: Component, mesh: Mesh, threat: ThreatModel, logits_fn: LogitsFn,
    key: Array, slots: _Slots, batch, fresh: Array, max_steps: int, idle_below: int,
):  # fmt: skip
    """Fill the fresh slots, then step; one program for every radius, network and set.

    Returns (slots, i32[B] steps left, 0 of rows that are done, bool[B] found, steps
    done, steps of all rows that were running).
    """
    machine = component.machine(threat)
    batch = sharding.split_batch(batch, mesh)
    work = _new_work(key, *batch)
    begun = _Slots(work, machine.start(work), jnp.zeros(len(fresh), jnp.int32))
    pick = partial(_pick, fresh)
    work, state, position = jax.tree.map(pick, begun, slots)
    before = position
    state, position, count = advance(
        machine, logits_fn, work, state, position, max_steps, idle_below
    )
    worked = jnp.sum(position - before)
    alive = running(machine, state, position)
    left = jnp.where(alive, machine.num_steps - position, 0)
    seen = sharding.constrain_replicated((left, state.found, count, worked), mesh)
    # Fixed, or each layout that the compiler comes up with is another compilation.
    return sharding.split_batch(_Slots(work, state, position), mesh), *seen


def _pick(rows: Array, this: Array, that: Array) -> Array:
    if jnp.issubdtype(this.dtype, jax.dtypes.prng_key):
        return jnp.where(rows, this, that)
    return where_rows(rows, this, that)
