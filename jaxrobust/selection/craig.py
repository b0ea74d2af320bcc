"""CRAIG: the points whose gradients stand for all others', each with its followers."""

from dataclasses import dataclass
from functools import partial
from math import ceil, log
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import features
from jaxrobust.features import Factors
from jaxrobust.selection import coreset
from jaxrobust.selection.coreset import Machine, Picked, Points, Solved
from jaxrobust.selection.spread_factors import SpreadFactors

_LOOK = 8
"""Candidates whose gains are brought up to date at a time."""


def craig(
    factors: Factors | SpreadFactors,
    label: Array,
    budget: int,
    key: Array,
    scope: str = "class",
    batch_size: int = 128,
    epsilon: float = 0.01,
    max_bytes: int = coreset.MAX_BYTES,
    mesh: Mesh | None = None,
) -> Picked:
    """Greedy facility location on gradients; a pick weighs as many as it stands for.

    Maximises F(S) = sum_i max_{j in S} s_ij, s_ij = max(d) - d_ij, d_ij = ||g_i -
    g_j||^2, to within 1 - 1/e. Each point belongs to its most similar pick (the
    earliest of equals), so weights sum to the number of points. `scope` "class" solves
    each class of label i32[N] for its share of `budget`; "batch" picks whole runs of
    `batch_size` rows by their mean gradient (N mod batch_size rows at the end are never
    picked); "pool" takes all points as one problem. Where the N x N similarities of
    "pool" exceed `max_bytes`, each step looks at N / budget log(1 / epsilon)
    random candidates only: 1 - 1/e - epsilon in expectation, fact `sampled` 1.
    `SpreadFactors`, of "class" alone, stay on the devices of `mesh` but for the classes
    that each of them solves. Raises `UserError` for a budget out of reach.

    Ref: Mirzasoleiman et al., arXiv:1906.01827; Dolatabadi et al., arXiv:2209.05785;
    Minoux 1978 (the same picks from out-of-date gains); Mirzasoleiman et al., Lazier
    Than Lazy Greedy, arXiv:1409.7938. Deviates: shares by largest remainder, so the
    budget is met exactly; the released code gives the picks of one order of the data to
    another, which makes them random.
    """
    coreset.check_scope(scope)
    whole = factors
    if scope == "batch":
        assert isinstance(factors, Factors)
        budget = coreset.whole_batches(budget, len(label), batch_size)
        factors = features.minibatches(factors, batch_size)
    count = len(label) if scope == "class" else len(factors.delta)
    coreset.check_budget(budget, count)
    solver = FacilityLocation()
    sampled = scope == "pool" and solver.block_bytes(count, 0) > max_bytes
    if sampled:
        samples = ceil(count / budget * log(1 / epsilon))
        chunks = ceil(12 * count * samples / max_bytes)
        picked = _sampled_greedy(factors, key, budget, min(samples, count), chunks)
    else:
        groups = coreset.groups_of(label if scope == "class" else np.zeros(count))
        # On CPU one class after another: side by side they fall out of its caches.
        alone = jax.default_backend() == "cpu"
        machine = Machine(0 if alone else max_bytes, mesh)
        picked = coreset.solve_groups(solver, factors, groups, budget, key, machine)
    if scope == "batch":
        picked = coreset.spread(picked, batch_size)
    picked.facts["sampled"] = jnp.int32(sampled)
    return coreset.finish(picked, whole, mesh)


class _Greedy(NamedTuple):
    """`place` i32[], picks made; `bound` f32[n+1] on each gain; `cover` f32[n], the
    similarity to the best pick."""

    place: Array
    bound: Array
    cover: Array
    owner: Array
    pick: Array


@dataclass(frozen=True)
class FacilityLocation:
    """Exact greedy facility location of one block; ties go to the lowest position."""

    def __call__(self, points: Points, steps: int, key: Array) -> Solved:
        """The picks in the order of their gains."""
        alike = similarity(points.factors, points.valid)
        pick, owner = greedy(alike, points.valid, steps, points.quota)
        weight = jnp.zeros(steps).at[owner].add(points.valid.astype(jnp.float32))
        return pick, weight, {}

    def block_bytes(self, size: int, steps: int) -> int:
        """Similarities and what they are made of."""
        return 12 * size**2


def similarity(factors: Factors, valid: Array) -> Array:
    """s_ij = max(d) - d_ij, f32[n,n], and 0 where i or j is padding."""
    both = valid[:, None] & valid[None]
    products = features.gram(factors, factors)
    norms = jnp.diagonal(products)
    distance = norms[:, None] + norms[None] - 2.0 * products
    distance = jnp.where(both, jnp.maximum(distance, 0.0), 0.0)
    return jnp.where(both, jnp.max(distance) - distance, 0.0)


def greedy(alike: Array, valid: Array, steps: int, quota: Array) -> tuple[Array, Array]:
    """Greedy picks i32[steps] of similarities f32[n,n], and owners i32[n]: which pick
    each point belongs to.

    Gains only fall, so an out-of-date gain is an upper bound: a turn brings the
    greatest bounds up to date, and picks the best of those points if the next bound is
    not above it. Those are the picks of the naive greedy, at a fraction of its work. It
    ends after `quota` i32[] picks.
    """
    count = len(alike)
    look = min(_LOOK, count)
    totals = jnp.where(valid, _gains(alike, jnp.zeros(count)), -jnp.inf)
    first = jnp.argmax(totals).astype(jnp.int32)
    # All points get new bounds at once, as the first pick lowers all by far.
    cover = alike[first]
    bound = jnp.minimum(totals, _gains(alike, cover)).at[first].set(-jnp.inf)
    start = _Greedy(
        place=jnp.int32(1),
        # One more than points, so that there always is a next bound.
        bound=jnp.append(bound, -jnp.inf),
        cover=cover,
        owner=jnp.zeros(count, jnp.int32),
        pick=jnp.zeros(steps, jnp.int32).at[0].set(first),
    )

    def turn(now: _Greedy) -> _Greedy:
        # Cut apart at once, XLA would take it for a sort of everything.
        leading, at = map(
            jax.lax.optimization_barrier, jax.lax.top_k(now.bound, look + 1)
        )
        # On CPU rows one by one are much faster than a gather of them.
        rows = jnp.stack([alike[at[i]] for i in range(look)])
        gain = jnp.minimum(_gains(rows, now.cover), leading[:-1])
        top = jnp.max(gain)
        best = jnp.min(jnp.where(gain == top, at[:-1], count))
        # Of equal bounds the lowest position comes first.
        sure = (top > leading[-1]) | ((top == leading[-1]) & (best < at[-1]))
        gain = jnp.where((at[:-1] == best) & sure, -jnp.inf, gain)
        closer = (alike[best] > now.cover) & sure
        return _Greedy(
            place=now.place + sure,
            bound=now.bound.at[at[:-1]].set(gain, unique_indices=True),
            cover=jnp.where(closer, alike[best], now.cover),
            owner=jnp.where(closer, now.place, now.owner),
            pick=now.pick.at[now.place].set(best),
        )

    end = jax.lax.while_loop(lambda now: now.place < quota, turn, start)
    return end.pick, end.owner


def _gains(rows: Array, cover: Array) -> Array:
    """f32[m], what each of `rows` f32[m,n] adds to `cover` f32[n].

    A product with ones, since XLA:CPU adds up a product in vectors, a sum one by one.
    """
    more = jax.lax.optimization_barrier(jax.nn.relu(rows - cover[None]))
    ones = jnp.ones(rows.shape[1])
    return jnp.matmul(more, ones, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _sampled_greedy(factors, key, budget, samples, chunks) -> Picked:
    """Stochastic greedy over all points; similarities are made where they are used."""
    count = len(factors.delta)
    norms = features.squared_norms(factors)
    # Any constant above all distances gives the same picks but for the first.
    far = 4.0 * jnp.max(norms)
    size = ceil(count / chunks)
    grow = lambda x: jnp.pad(
        x, [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1)
    ).reshape(chunks, size, *x.shape[1:])
    rows = jax.tree.map(grow, (factors, norms))

    def columns(at: Array, of, *state: Array):
        """`of(similarities f32[size,len(at)], *state)` for one chunk of rows after
        another."""
        some, some_norms = features.take(factors, at), norms[at]

        def chunk(part):
            (inside, inside_norms), state = part
            distance = inside_norms[:, None] + some_norms[None]
            distance = distance - 2.0 * features.gram(inside, some)
            return of(far - jnp.maximum(distance, 0.0), *state)

        return jax.lax.map(chunk, (rows, state))

    def gains(alike: Array, cover: Array) -> Array:
        return jnp.sum(jax.nn.relu(alike - cover[:, None]), axis=0)

    def settle(place: Array):
        def of(alike: Array, cover: Array, owner: Array) -> tuple[Array, Array]:
            closer = alike[:, 0] > cover
            nearest = jnp.where(closer, alike[:, 0], cover)
            return nearest, jnp.where(closer, place, owner)

        return of

    def step(place: Array, state):
        cover, owner, free, pick = state
        draw = jax.random.fold_in(key, place)
        slot = jax.random.randint(draw, (samples,), 0, count - place)
        gain = jnp.sum(columns(free[slot], gains, cover), axis=0)
        best = jnp.min(jnp.where(gain == jnp.max(gain), free[slot], count))
        # The last free point takes the place of the one that is gone.
        gone = slot[jnp.argmax(free[slot] == best)]
        free = free.at[gone].set(free[count - place - 1])
        cover, owner = columns(best[None], settle(place), cover, owner)
        return cover, owner, free, pick.at[place].set(best)

    # Padding is covered from the start, so it asks for nothing.
    covered = jnp.where(jnp.arange(chunks * size) < count, 0.0, jnp.inf)
    start = (
        jnp.reshape(covered, (chunks, size)),
        jnp.zeros((chunks, size), jnp.int32),
        jnp.arange(count, dtype=jnp.int32),
        jnp.zeros(budget, jnp.int32),
    )
    _, owner, _, pick = jax.lax.fori_loop(0, budget, step, start)
    followers = jnp.zeros(budget).at[owner.ravel()[:count]].add(1.0)
    order = jnp.argsort(pick)
    error = features.relative_error(factors, pick, followers)
    facts = {"picks": jnp.sum(followers > 0), "block_error": error[None]}
    return Picked(pick[order], followers[order], facts)
