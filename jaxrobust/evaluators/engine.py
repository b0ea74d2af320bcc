"""Runs one component of an attack suite over a whole set, keeping the device full.

Images wait in a queue; a batch has slots. As soon as enough slots are idle, because
their images are fooled or have used up their steps, waiting images take them. Rows are
independent, so flags do not depend on any of this.
"""

from collections import deque
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
    that had nothing left to do while their batch went on."""

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
        queue: deque[tuple[int, int]],
        still_wanted: Callable[[int, int], bool],
        key: Array,
        cost: Cost,
    ) -> Iterator[Finished]:
        """Attack every (run, place) of `queue`, yielding what each look has found.

        `still_wanted(run, place)` is asked when a slot is free: an image that another
        run has fooled meanwhile is passed over.
        """
        logits_fn = as_tree(logits_fn)
        key = jax.random.fold_in(key, component.stream)
        machine = component.machine(threat)
        size, slots = self._first_size(machine.num_steps, len(queue)), None
        holds = np.full((size, 2), -1)
        while True:
            fresh = _fill(holds, queue, still_wanted)
            if not (holds[:, 0] >= 0).any():
                return
            batch = self._fresh(images, holds, fresh)
            idle_below = size - max(1, round(REFILL_SHARE * size)) if queue else 0
            if slots is None:
                slots = _empty(component, self.mesh, threat, key, batch)
            slots, alive, left, count, worked = _turn(
                component, self.mesh, threat, logits_fn, key, slots, batch, fresh,
                self.chunk_steps, idle_below,
            )  # fmt: skip
            steps, worked = int(count), int(worked)
            cost.forwards += worked * machine.forwards
            cost.backwards += worked * machine.backwards
            passes = machine.forwards + machine.backwards
            cost.idle += (steps * size - worked) * passes
            yield self._harvest(slots, holds, np.asarray(alive), machine.num_steps)
            slots, holds, size = self._shrink(slots, holds, int(left), bool(queue))

    def _first_size(self, num_steps: int, count: int) -> int:
        """`batch_size`; for long runs the least that takes no more rounds of batches,
        so that the last round is full, too."""
        devices = self.mesh.devices.size
        if num_steps < LONG_STEPS or not count:
            return self.batch_size
        rounds = -(-count // self.batch_size)
        share = -(-count // rounds)
        return -(-share // devices) * devices

    def _fresh(self, images: Images, holds: np.ndarray, fresh: np.ndarray):
        """Host arrays for all slots; only those of `fresh` slots matter."""
        place = np.where(fresh, holds[:, 1], holds[fresh.argmax(), 1])
        place = np.maximum(place, 0)
        number = np.maximum(holds[:, 0], 0)
        rank = np.minimum(number, images.others.shape[1] - 1)
        return (
            images.gather(place),
            images.label[place],
            images.others[place, rank],
            images.index[place],
            number.astype(np.int32),
        )

    def _harvest(
        self, slots: _Slots, holds: np.ndarray, alive: np.ndarray, num_steps: int
    ) -> Finished:
        """What ended; its slots become free."""
        ended = (holds[:, 0] >= 0) & ~alive
        found, x_adv, position = slots.state.found, slots.state.x_adv, slots.position
        if self.mesh.devices.size > 1:
            parts = (found, x_adv, position)
            found, x_adv, position = sharding.gather(parts, self.mesh)
        found = np.asarray(found)[ended]
        # The images are fetched only where there is one to fetch.
        empty = np.zeros((len(found), *x_adv.shape[1:]), np.float32)
        images = np.asarray(x_adv)[ended] if found.any() else empty
        place, number = holds[ended, 1], holds[ended, 0]
        holds[ended] = -1
        left = np.sum(num_steps - np.asarray(position)[alive]) / num_steps
        return Finished(place, number, found, images, float(left))

    def _shrink(self, slots: _Slots, holds: np.ndarray, left: int, waiting: bool):
        """Halve a batch that is mostly idle, where much work is left to save."""
        size, half = len(holds), len(holds) // 2
        busy = holds[:, 0] >= 0
        fits = 0 < busy.sum() <= half and half % self.mesh.devices.size == 0
        if waiting or not fits or left < LONG_STEPS or size % 2:
            return slots, holds, size
        order = np.argsort(~busy, kind="stable")[:half]
        keep = jax.jit(lambda tree, rows: jax.tree.map(lambda x: x[rows], tree))
        return keep(slots, order), holds[order], half


def _fill(holds: np.ndarray, queue: deque, still_wanted) -> np.ndarray:
    """Put waiting images into free slots; returns which slots got one, bool[B]."""
    fresh = np.zeros(len(holds), bool)
    for slot in np.flatnonzero(holds[:, 0] < 0):
        while queue:
            number, place = queue.popleft()
            if still_wanted(number, place):
                holds[slot] = number, place
                fresh[slot] = True
                break
    return fresh


def _empty(component: Component, mesh: Mesh, threat: ThreatModel, key: Array, batch):
    """Slots of the right shapes that hold nothing: their steps are used up."""
    machine = component.machine(threat)

    def begin(threat: ThreatModel, key: Array, batch) -> tuple[Work, Any]:
        work = _new_work(key, *batch)
        return work, component.machine(threat).start(work)

    shapes = jax.eval_shape(begin, threat, key, batch)

    def blank() -> _Slots:
        work, state = jax.tree.map(_blank, shapes)
        position = jnp.full(len(state.found), machine.num_steps, jnp.int32)
        return sharding.split_batch(_Slots(work, state, position), mesh)

    return jax.jit(blank)()


def _blank(x: jax.ShapeDtypeStruct) -> Array:
    if _is_key(x):
        return jax.random.split(jax.random.key(0), x.shape)
    return jnp.zeros(x.shape, x.dtype)


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

    Returns (slots, bool[B] still running, most steps that a row has left, steps done,
    steps of all rows that were running).
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
    left = jnp.max(jnp.where(alive, machine.num_steps - position, 0))
    seen = sharding.constrain_replicated((alive, left, count, worked), mesh)
    return _Slots(work, state, position), *seen


def _pick(rows: Array, this: Array, that: Array) -> Array:
    if _is_key(this):
        return jnp.where(rows, this, that)
    return where_rows(rows, this, that)


def _is_key(x: Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
