"""What coreset methods share: groups of points in padded blocks, budgets, the answer.

A group is a class, or everything. Groups of like size are padded to one size and solved
side by side, as many at once as `max_bytes` admits, on every device of a mesh its own.
"""

from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxrobust import features, rng
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.features import Factors
from jaxrobust.selection import spread_factors
from jaxrobust.selection.spread_factors import SpreadFactors
from jaxrobust.sharding import AXIS, constrain_replicated

SCOPES = ("class", "batch", "pool")
"""One problem for each class, one over whole minibatches, or one over all points."""

MAX_BYTES = 2**30
"""What the blocks that are solved side by side may hold on one device."""

_LIKE = 0.75
"""Groups of at least this part of the largest share its padding."""


class Picked(NamedTuple):
    """`index` i32[budget], ascending positions in the given rows without repeats;
    `weight` f32[budget]; `facts`, numbers and short arrays worth a line in a log.

    Every method gives the facts `gradient_error` f32[] (`features.relative_error` over
    all rows), `block_error` f32[groups] (the same inside each problem that was solved,
    by ascending class) and `picks` i32[], how many weights are above zero.
    """

    index: Array
    weight: Array
    facts: dict[str, Array]


class Points(NamedTuple):
    """One group, padded: `factors` of n points, `valid` bool[n], `quota` i32[] picks to
    make, `goal` f32[K,D+1] the gradient to match."""

    factors: Factors
    valid: Array
    quota: Array
    goal: Array


Solved = tuple[Array, Array, dict[str, Array]]
"""(pick i32[steps] places in the block, weight f32[steps], facts of this block); only
the first `quota` entries count."""


class Solver(Protocol):
    """How one block is solved; hashable, so that equal solvers compile once."""

    def __call__(self, points: Points, steps: int, key: Array) -> Solved:
        """Pick; `steps` is at least the quota."""
        ...

    def block_bytes(self, size: int, steps: int) -> int:
        """What one block of `size` points holds in memory."""
        ...


class Machine(NamedTuple):
    """Where blocks are solved: `max_bytes` on each device, 0 for one block at a time;
    classes laid over `mesh`."""

    max_bytes: int
    mesh: Mesh | None


def check_budget(budget: int, count: int) -> None:
    """Raises `UserError` unless 1 <= budget <= count."""
    if not 0 < budget <= count:
        raise UserError(
            f"cannot keep {budget} of {count} images: choose a budget from 1 to {count}"
        )


def check_scope(scope: str) -> None:
    """Raises `UserError` for an unknown scope."""
    if scope not in SCOPES:
        raise unknown_name("scope of the coreset", scope, SCOPES)


def quotas(sizes: Sequence[int], budget: int) -> np.ndarray:
    """int64[C] shares of `budget` by largest remainder, lowest class first in ties.

    They sum to the budget exactly and are at least one each where the budget reaches,
    at the cost of the largest share.
    """
    sizes_ = np.asarray(sizes)
    exact = budget * sizes_ / sizes_.sum()
    share = np.floor(exact).astype(np.int64)
    order = np.argsort(share - exact, kind="stable")
    share[order[: budget - share.sum()]] += 1
    while budget >= len(share) and (share == 0).any():
        share[np.argmax(share)] -= 1
        share[np.argmax(share == 0)] += 1
    return share


def groups_of(label: Any) -> list[np.ndarray]:
    """Positions of each class that occurs, by ascending class; label i32[N]."""
    label = np.asarray(label)
    starts = np.flatnonzero(np.diff(np.sort(label))) + 1
    return np.split(np.argsort(label, kind="stable"), starts)


def buckets(sizes: np.ndarray) -> list[np.ndarray]:
    """Groups in buckets of like size, so that padding wastes little."""
    order = np.argsort(-sizes, kind="stable")
    cuts, first = [], 0
    for place, group in enumerate(order):
        if sizes[group] < _LIKE * sizes[order[first]]:
            cuts.append(place)
            first = place
    return np.split(order, cuts)


def solve_groups(
    solver: Solver,
    factors: Factors | SpreadFactors,
    groups: list[np.ndarray],
    budget: int,
    key: Array,
    machine: Machine,
    goals: Array | None = None,
) -> Picked:
    """Solve every group with its share of the budget and join the answers.

    `goals` f32[groups,K,D+1] are the gradients to match, by default each group's sum.
    Groups without a share are left out. `gradient_error` is not among the facts yet.
    """
    share = quotas([len(rows) for rows in groups], budget)
    used = np.flatnonzero(share)
    sizes = np.array([len(groups[g]) for g in used])
    parts, slots, places, first, start = [], [], np.zeros(len(used), int), 0, 0
    for members in buckets(sizes):
        number = used[members]
        bucket = _padded([groups[g] for g in number], share[number], number)
        part = _solve_bucket(solver, factors, bucket, key, machine, goals)
        steps = part[0].shape[1]
        for place, group in enumerate(members):
            begin = first + place * steps
            slots.append(range(begin, begin + share[used[group]]))
            places[group] = start + place
        first, start = first + part[0].size, start + len(part[0])
        parts.append(part)
    return _join(machine.mesh, parts, np.concatenate(slots), places)


def finish(
    picked: Picked, factors: Factors | SpreadFactors, mesh: Mesh | None = None
) -> Picked:
    """Add the gradient error over all rows; `mesh` holds those that are spread."""
    error = relative_error(factors, picked.index, picked.weight, mesh)
    return picked._replace(facts={"gradient_error": error, **picked.facts})


def spread(picked: Picked, size: int) -> Picked:
    """Every member of a picked minibatch of `size` rows, with the batch's weight."""
    index = picked.index[:, None] * size + jnp.arange(size)[None]
    return Picked(index.ravel(), jnp.repeat(picked.weight, size), picked.facts)


def whole_batches(budget: int, count: int, batch_size: int) -> int:
    """How many minibatches fill the budget; `UserError` where it is not whole ones."""
    check_budget(budget, count // batch_size * batch_size)
    if budget % batch_size:
        raise UserError(
            f"a budget of {budget} is not whole batches of {batch_size}: "
            f"try {max(budget // batch_size, 1) * batch_size}"
        )
    return budget // batch_size


@partial(jax.jit, static_argnums=3)
def relative_error(factors, index: Array, weight: Array, mesh: Mesh | None) -> Array:
    """`features.relative_error`, also of `SpreadFactors`, on the devices of `mesh`."""
    if isinstance(factors, SpreadFactors):
        assert mesh is not None
        return spread_factors.relative_error(factors, index, weight, mesh)
    return features.relative_error(factors, index, weight)


class _Bucket(NamedTuple):
    """Groups of one padded size: `rows` i32[C,n]; `filled`, `quota`, `number`
    i32[C]."""

    rows: np.ndarray
    filled: np.ndarray
    quota: np.ndarray
    number: np.ndarray


def _padded(groups, share, number) -> _Bucket:
    filled = np.array([len(rows) for rows in groups])
    rows = np.stack([np.resize(r, max(filled)) for r in groups])
    return _Bucket(*(np.asarray(x, np.int32) for x in (rows, filled, share, number)))


def _solve_bucket(solver, factors, bucket, key, machine, goals):
    """The answers of one bucket; empty groups at the end make even rounds of it."""
    count, size = bucket.rows.shape
    steps = int(bucket.quota.max())
    devices = machine.mesh.devices.size if machine.mesh else 1
    share = ceil(count / devices)
    fits = max(1, machine.max_bytes // solver.block_bytes(size, steps))
    rounds = ceil(share / fits)
    at_once = ceil(share / rounds)
    empty = devices * rounds * at_once - count
    grown = [np.pad(x, [(0, empty)] + [(0, 0)] * (x.ndim - 1)) for x in bucket]
    static = (solver, steps, at_once, machine.mesh)
    return _solve_blocks(*static, factors, _Bucket(*grown), key, goals)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _solve_blocks(solver, steps, at_once, mesh, factors, bucket, key, goals):
    def solve(block):
        (rows, filled, quota, number), inside, goal, key = block
        valid = jnp.arange(len(rows)) < filled
        # Padding has the gradient zero, so it adds nothing to any sum.
        inside = inside._replace(delta=inside.delta * valid[:, None, None])
        if goal is None:
            goal = features.total(jnp.ones(len(rows)), inside)
        pick, weight, facts = solver(Points(inside, valid, quota, goal), steps, key)
        weight = jnp.where(jnp.arange(steps) < quota, weight, 0.0)
        matched = features.total(weight, features.take(inside, pick))
        facts = {"block_error": features.distance(matched, goal), **facts}
        return rows[pick], weight, facts

    together = at_once if at_once > 1 else None
    each = lambda blocks: jax.lax.map(solve, blocks, batch_size=together)
    if mesh is not None:
        # Blocks have nothing to say to each other, so there is nothing to check.
        split = PartitionSpec(AXIS)
        each = jax.shard_map(
            each, mesh=mesh, in_specs=split, out_specs=split, check_vma=False
        )
    if isinstance(factors, SpreadFactors):
        assert mesh is not None
        inside = spread_factors.deal(factors, bucket.rows, mesh)
    else:
        inside = features.take(factors, bucket.rows)
    goal = None if goals is None else goals[bucket.number]
    return each((bucket, inside, goal, rng.per_example(key, bucket.number)))


@partial(jax.jit, static_argnums=0)
def _join(mesh, parts, slots, places) -> Picked:
    index, weight = (
        jnp.concatenate([part[side].ravel() for part in parts])[slots]
        for side in (0, 1)
    )
    order = jnp.argsort(index)
    facts = {
        name: jnp.concatenate([part[2][name] for part in parts])[places]
        for name in parts[0][2]
    }
    picks = jnp.sum(weight > 0)
    picked = Picked(index[order], weight[order], {"picks": picks, **facts})
    return picked if mesh is None else constrain_replicated(picked, mesh)
