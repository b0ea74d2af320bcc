"""GradMatch: few points with weights whose summed gradient is that of all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import features
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.features import Factors
from jaxrobust.selection import coreset
from jaxrobust.selection.coreset import Machine, Picked, Points, Solved
from jaxrobust.selection.spread_factors import SpreadFactors

FILLS = {"none": 0.0, "random": 1.0}
"""What a slot weighs that matching left empty."""

_TINY = 1e-30
_FLAT = 1e-6
"""A slope below this part of the greatest at the start is rounding."""


def gradmatch(
    factors: Factors | SpreadFactors,
    label: Array,
    budget: int,
    key: Array,
    scope: str = "class",
    batch_size: int = 128,
    ridge: float = 0.01,
    own_row: bool = False,
    fill: str = "none",
    goals: Array | None = None,
    max_bytes: int = coreset.MAX_BYTES,
    mesh: Mesh | None = None,
) -> Picked:
    """Non-negative orthogonal matching pursuit on gradients.

    min over w >= 0 of ||sum_j w_j g_j - b||^2 + lambda ||w||^2, at most `budget` of
    them above zero; lambda = `ridge` (> 0) times the mean ||g||^2. b is the sum of the
    gradients of a class ("class"), of all rows ("batch", "pool"), or `goals`
    f32[groups,K,D+1], one for each class that occurs or a single one (a
    `features.total` of validation gradients, say). `own_row` looks at the weights of a
    point's own class only. "batch" picks whole runs of `batch_size` rows, whose members
    share a weight; "pool" never holds N x N numbers.
    `SpreadFactors`, of "class" without `own_row`, stay on the devices of `mesh` but for
    the classes that each of them solves.

    Matching ends early where no point is left whose gradient goes the way of what is
    missing. The answer keeps its size: empty slots get random points that were not
    picked, of weight 0 (`fill` "none", so they teach nothing) or 1 ("random", as the
    paper). Facts beyond the common ones: `fills` such slots, `drops` points that lost
    their weight on the way, `ended_early` groups that did, `out_of_steps` groups that
    were stopped after three steps for each pick. Raises `UserError` for a budget out of
    reach or a ridge that is not positive.

    Ref: Killamsetty et al., arXiv:2103.00123; Dolatabadi et al., arXiv:2209.05785;
    Lawson and Hanson, Solving Least Squares Problems, ch. 23. Deviates: weights are the
    exact non-negative solution on the points picked, where the released code gives up
    at a negative one; shares by largest remainder; lambda relative, never 0.
    """
    coreset.check_scope(scope)
    if ridge <= 0:
        raise UserError(f"ridge {ridge} must be positive: try 0.01")
    if fill not in FILLS:
        raise unknown_name("fill of the coreset", fill, FILLS)
    seen = factors
    if own_row:
        assert isinstance(factors, Factors)
        seen = features.own_row(factors, label)
    if scope == "batch":
        assert isinstance(seen, Factors)
        budget = coreset.whole_batches(budget, len(label), batch_size)
        # Rows after the last whole batch are part of what is to be matched.
        if goals is None:
            goals = features.total(jnp.full(len(label), 1 / batch_size), seen)[None]
        seen = features.minibatches(seen, batch_size)
    count = len(label) if scope == "class" else len(seen.delta)
    coreset.check_budget(budget, count)
    groups = coreset.groups_of(label if scope == "class" else np.zeros(count))
    solver = Matching(ridge, FILLS[fill], in_gram=scope != "pool")
    machine = Machine(max_bytes, mesh)
    picked = coreset.solve_groups(solver, seen, groups, budget, key, machine, goals)
    facts = {name: jnp.sum(picked.facts[name]) for name in _COUNTS}
    picked = picked._replace(facts=picked.facts | facts)
    if scope == "batch":
        picked = coreset.spread(picked, batch_size)
    return coreset.finish(picked, factors, mesh)


class Atoms(NamedTuple):
    """Gradients as matching sees them: `among(j, pick)` f32[k], inner products of point
    j with the picks; `sum_(pick, weight)` f32[n], of all points with a weighted sum;
    `norms` f32[n], squared; `goal` f32[n], with the gradient to match."""

    among: Callable[[Array, Array], Array]
    sum_: Callable[[Array, Array], Array]
    norms: Array
    goal: Array


@dataclass(frozen=True)
class Matching:
    """Matching in one block: in Gram space, or (`in_gram` False) in that of factors."""

    ridge: float
    fill: float
    in_gram: bool

    def __call__(self, points: Points, steps: int, key: Array) -> Solved:
        """The picks, then empty slots filled at random."""
        atoms = (_in_gram if self.in_gram else _in_factors)(points)
        valid = points.valid
        damping = self.ridge * jnp.sum(atoms.norms) / jnp.maximum(jnp.sum(valid), 1)
        end = match(atoms, valid, points.quota, steps, damping)
        chosen = jnp.zeros(len(valid), bool).at[end.pick].max(end.active)
        order = jax.random.uniform(key, (len(valid),)) + (chosen | ~valid)
        spare = jnp.argsort(order)[jnp.cumsum(~end.active) - 1]
        asked = jnp.arange(steps) < points.quota
        fills = jnp.sum(asked & ~end.active)
        facts = {
            "fills": fills,
            "drops": end.drops,
            "ended_early": (fills > 0) & end.stopped,
            "out_of_steps": ~end.stopped,
        }
        weight = jnp.where(end.active, end.weight, self.fill)
        return jnp.where(end.active, end.pick, spare), weight, facts

    def block_bytes(self, size: int, steps: int) -> int:
        """The Gram matrix and what it is made of, and the inverse with its update."""
        return 12 * size**2 + 12 * steps**2 if self.in_gram else 12 * steps**2


_COUNTS = ("fills", "drops", "ended_early", "out_of_steps")


class _Match(NamedTuple):
    """Slots [k]: `pick` i32, `weight` f32, `active` bool; `inverse` f32[k,k] of the
    damped Gram matrix of the active ones, 0 elsewhere; `barred` bool[n], the points
    that are active, useless or padding."""

    pick: Array
    weight: Array
    active: Array
    inverse: Array
    barred: Array
    settled: Array
    stopped: Array
    drops: Array
    turns: Array


def match(
    atoms: Atoms, valid: Array, quota: Array, steps: int, damping: Array
) -> _Match:
    """Lawson and Hanson's method, stopped at `quota` active points.

    A turn adds the point of the steepest slope, then takes a Newton step on the active
    weights. Where a weight would turn negative the step ends there, that point is
    dropped, and the next turn goes on from there. The inverse follows by rank-one
    updates; each step starts from the true slope and never goes up, so what the inverse
    has lost to rounding costs turns, not accuracy.
    """
    least = _FLAT * jnp.max(jnp.abs(atoms.goal))
    start = _Match(
        pick=jnp.zeros(steps, jnp.int32),
        weight=jnp.zeros(steps),
        active=jnp.zeros(steps, bool),
        inverse=jnp.zeros((steps, steps)),
        barred=~valid,
        settled=jnp.bool(True),
        stopped=jnp.bool(False),
        drops=jnp.int32(0),
        turns=jnp.int32(0),
    )

    def turn(now: _Match) -> _Match:
        slope = atoms.goal - atoms.sum_(now.pick, now.weight)
        best = jnp.argmax(jnp.where(now.barred, -jnp.inf, slope))
        useful = ~now.barred[best] & (slope[best] > least)
        asked = now.settled & useful & (jnp.sum(now.active) < quota)
        slot = jnp.argmin(now.active)
        border, new = _border(atoms, now, best, slot, damping)
        add = asked & new
        border = jnp.where(add, border, 0.0)
        pick = now.pick.at[slot].set(jnp.where(add, best, now.pick[slot]))
        active = now.active.at[slot].max(add)
        pull = jnp.where(active, slope[pick] - damping * now.weight, 0.0)
        step = now.inverse @ pull + border * (border @ pull)
        step = _searched(atoms, pick, pull, step, damping)
        weight, lost, drop = _walk(now.weight, step, active)
        gone = drop & (jnp.arange(steps) == lost)
        least_diagonal = 1.0 / (atoms.norms[pick[lost]] + damping)
        # A point that is dropped at once would come back for ever.
        freed = drop & ~(add & (lost == slot))
        barred = now.barred.at[best].max(asked)
        return _Match(
            pick=pick,
            weight=jnp.where(gone, 0.0, weight),
            active=active & ~gone,
            inverse=_updated(now.inverse, border, lost, gone, least_diagonal),
            barred=barred.at[pick[lost]].min(~freed),
            settled=~drop,
            stopped=now.settled & ~asked & ~drop,
            drops=now.drops + drop,
            turns=now.turns + 1,
        )

    going = lambda now: ~now.stopped & (now.turns < 3 * quota + 3)
    return jax.lax.while_loop(going, turn, start)


def _border(atoms, now, point, slot, damping) -> tuple[Array, Array]:
    """v f32[k] such that inverse + v v^T is the inverse with one more point, and
    whether that point is one more, to within rounding."""
    beside = jnp.where(now.active, atoms.among(point, now.pick), 0.0)
    seen = now.inverse @ beside
    # Once more for what the first answer missed, or errors of the inverse would grow.
    again = atoms.sum_(now.pick, seen)[now.pick] + damping * seen
    seen = seen + now.inverse @ jnp.where(now.active, beside - again, 0.0)
    # The part of the point that the others lack is at least the damping.
    left = atoms.norms[point] + damping - beside @ seen
    vector = seen.at[slot].set(-1.0) / jnp.sqrt(jnp.maximum(left, damping))
    return vector, left > 0.5 * damping


def _searched(atoms, pick, pull, step, damping) -> Array:
    """The best multiple of the step, or of the slope if the step does not go down.

    With an exact inverse the multiple is 1; with an inexact one the error still falls.
    """
    step = jnp.where(pull @ step > 0, step, pull)
    curved = atoms.sum_(pick, step)[pick] + damping * step
    return step * (pull @ step) / jnp.maximum(step @ curved, _TINY)


def _walk(weight: Array, step: Array, active: Array) -> tuple[Array, Array, Array]:
    """The step as far as no weight turns negative: (weight f32[k], the slot that
    stopped it, whether one did)."""
    low = active & (weight + step <= 0)
    reach = jnp.where(low, weight / jnp.maximum(-step, _TINY), jnp.inf)
    lost = jnp.argmin(reach)
    drop = jnp.any(low)
    weight = jnp.maximum(weight + jnp.minimum(reach[lost], 1.0) * step, 0.0)
    return jnp.where(active, weight, 0.0), lost, drop


def _updated(inverse, border, lost, gone, least_diagonal) -> Array:
    """The inverse with a point more (`border`) and a point less (`lost` if `gone`).

    No diagonal entry of an inverse is below 1 over that of the matrix.
    """
    column = inverse[:, lost] + border * border[lost]
    length = jnp.sqrt(jnp.maximum(column[lost], least_diagonal))
    cut = jnp.where(gone[lost], column / length, 0.0)
    inverse = inverse + jnp.outer(border, border) - jnp.outer(cut, cut)
    return jnp.where(gone[:, None] | gone[None], 0.0, inverse)


def _in_gram(points: Points) -> Atoms:
    products = features.gram(points.factors, points.factors)

    def sum_(pick: Array, weight: Array) -> Array:
        return products @ jnp.zeros(len(products)).at[pick].add(weight)

    return Atoms(
        among=lambda point, pick: products[point][pick],
        sum_=sum_,
        norms=jnp.diagonal(products),
        goal=features.inner(points.factors, points.goal),
    )


def _in_factors(points: Points) -> Atoms:
    """The same without the n x n products: for many points at once."""
    of = lambda pick: features.take(points.factors, pick)

    def sum_(pick: Array, weight: Array) -> Array:
        return features.inner(points.factors, features.total(weight, of(pick)))

    return Atoms(
        among=lambda point, pick: features.gram(of(point[None]), of(pick))[0],
        sum_=sum_,
        norms=features.squared_norms(points.factors),
        goal=features.inner(points.factors, points.goal),
    )
