"""The top of a ranking whose scores stay where they were made, laid over the devices.

Devices tell each other how many of their scores are above a bound and narrow the bound
down bit by bit; none of them ever holds the scores of all.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxrobust.selection.topk import check_choice
from jaxrobust.sharding import AXIS

_BITS = 32


def keep_top(
    score: Array,
    label: Array,
    place: Array,
    key: Array,
    size: int,
    budget: int,
    order: str,
    balanced: bool,
    classes: int,
    total: int,
    mesh: Mesh,
) -> Array:
    """Which rows of score f32[S,B] are chosen, bool[S,B]; all of them laid over the
    devices by their second axis.

    `place` i32[S,B] numbers the rows that count from 0 to `size` - 1; others have
    larger numbers, below 2^31. With label i32[S,B] below `classes` and every row at its
    place, these are the rows of `take_top`, with `total` rows there, and so are the
    errors.
    """
    check_choice(size, budget, order)
    given = (score, label, place, key, size, budget)
    return _keep_top(*given, order, balanced, classes, total, mesh)


@partial(jax.jit, static_argnums=(6, 7, 8, 9, 10))
def _keep_top(
    score, label, place, key, size, budget, order, balanced, classes, total, mesh
):
    if order == "random":
        value = jax.random.permutation(key, total)[place]
    else:
        value = -score if order == "easy" else score
    group, groups = (label, classes) if balanced else (jnp.zeros_like(label), 1)

    def own(value: Array, group: Array, place: Array) -> Array:
        flat = lambda x: jnp.reshape(x, -1)
        rows = _Rows(
            _ordered(flat(value)), flat(place), flat(group), flat(place) < size
        )
        if order == "mid":
            distance = jnp.abs(2 * _ranks(rows, mesh.devices.size) - (size - 1))
            rows = rows._replace(value=_ordered(-distance))
        count = jnp.full(groups, budget)
        bound = _dealt(rows, budget, groups) if balanced else _bound(rows, count)
        return jnp.reshape(_above(rows, bound), value.shape)

    laid = PartitionSpec(None, AXIS)
    run = jax.shard_map(own, mesh=mesh, in_specs=laid, out_specs=laid, check_vma=False)
    return run(value, group, place)


class _Rows(NamedTuple):
    """What one device has: `value` u32[n], larger first; of equal ones the lower
    `place` i32[n]; `group` i32[n]; `real` bool[n], rows that count."""

    value: Array
    place: Array
    group: Array
    real: Array


class _Bound(NamedTuple):
    """The last row that is taken of each group: its value u32[G] and its place u32[G],
    turned around so that larger is first."""

    value: Array
    turned: Array


def _ordered(value: Array) -> Array:
    """f32[n] or i32[n] as u32[n] in the same order; the two zeros are one."""
    top = jnp.uint32(1 << 31)
    if value.dtype == jnp.int32:
        return jax.lax.bitcast_convert_type(value, jnp.uint32) ^ top
    value = jnp.where(value == 0, 0.0, value)
    bits = jax.lax.bitcast_convert_type(value, jnp.uint32)
    return jnp.where(bits >= top, ~bits, bits | top)


def _turned(place: Array) -> Array:
    return jnp.uint32((1 << 31) - 1) - place.astype(jnp.uint32)


def _count(hit: Array, group: Array, groups: int) -> Array:
    """i32[G], how many rows of each group are hit, on all devices together."""
    hit = hit.astype(jnp.int32)
    # Adding into one place is slow, and most often there is one group.
    alone = groups == 1
    found = jnp.sum(hit)[None] if alone else jnp.zeros(groups, int).at[group].add(hit)
    return jax.lax.psum(found, AXIS)


def _largest(value: Array, group: Array, hit: Array, quota: Array) -> Array:
    """u32[G]: the largest bound that at least `quota` i32[G] rows come up to, counting
    those that are `hit`."""

    def narrow(step: Array, bound: Array) -> Array:
        trial = bound | (jnp.uint32(1 << (_BITS - 1)) >> step.astype(jnp.uint32))
        found = _count(hit & (value >= trial[group]), group, len(quota))
        return jnp.where(found >= quota, trial, bound)

    return jax.lax.fori_loop(0, _BITS, narrow, jnp.zeros(len(quota), jnp.uint32))


def _bound(rows: _Rows, quota: Array) -> _Bound:
    """The last of the first `quota` i32[G] rows of each group."""
    value, group, real = rows.value, rows.group, rows.real
    last = _largest(value, group, real, quota)
    above = _count(real & (value > last[group]), group, len(quota))
    equal = real & (value == last[group])
    return _Bound(last, _largest(_turned(rows.place), group, equal, quota - above))


def _above(rows: _Rows, bound: _Bound) -> Array:
    last = bound.value[rows.group]
    among = _turned(rows.place) >= bound.turned[rows.group]
    return rows.real & ((rows.value > last) | ((rows.value == last) & among))


def _dealt(rows: _Rows, budget: Array, groups: int) -> _Bound:
    """Bounds that take the best of every group in turn, `budget` i32[] in all."""
    size = _count(rows.real, rows.group, groups)

    def narrow(step: Array, turns: Array) -> Array:
        trial = turns | (jnp.int32(1 << (_BITS - 2)) >> step)
        return jnp.where(jnp.sum(jnp.minimum(size, trial)) <= budget, trial, turns)

    turns = jax.lax.fori_loop(0, _BITS - 1, narrow, jnp.int32(0))
    whole = jnp.minimum(size, turns)
    bound, more = _bound(rows, whole), _bound(rows, jnp.minimum(size, whole + 1))
    # Of the turn that is not complete the best come first.
    best = jnp.lexsort((~more.turned, ~more.value, size <= turns))
    rank = jnp.zeros(groups, int).at[best].set(jnp.arange(groups))
    grows = rank < budget - jnp.sum(whole)
    return _Bound(*(jnp.where(grows, b, a) for a, b in zip(bound, more)))


def _ranks(rows: _Rows, devices: int) -> Array:
    """i32[n], each row's rank in the ascending order of all values, lower places first.

    The sorted rows of every device go around once, one device's at a time.
    """
    value = jnp.where(rows.real, rows.value, jnp.uint32(2**32 - 1))
    order = jnp.lexsort((rows.place, value))
    around = [(device, (device + 1) % devices) for device in range(devices)]

    def meet(_, state):
        rank, values, places = state
        rank = rank + _lower(values, places, value, rows.place)
        go = lambda x: jax.lax.ppermute(x, AXIS, around)
        return rank, go(values), go(places)

    start = jnp.zeros(len(value), jnp.int32), value[order], rows.place[order]
    return jax.lax.fori_loop(0, devices, meet, start)[0]


def _lower(values: Array, places: Array, value: Array, place: Array) -> Array:
    """i32[n], how many of the sorted (values, places) [m] come before each row."""
    steps = len(values).bit_length()

    def look(step: Array, found: Array) -> Array:
        trial = found + (jnp.int32(1 << (steps - 1)) >> step)
        at = jnp.minimum(trial, len(values)) - 1
        less = values[at] < value
        less |= (values[at] == value) & (places[at] < place)
        return jnp.where(less & (trial <= len(values)), trial, found)

    return jax.lax.fori_loop(0, steps, look, jnp.zeros(len(value), jnp.int32))
