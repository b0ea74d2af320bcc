"""Square: random search that changes one square window a query; needs no gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust import losses
from jaxrobust.attacks.machine import (
    Component,
    Machine,
    Work,
    as_attack,
    fold_rows,
    fooled,
    where_rows,
)
from jaxrobust.attacks.square_shapes import (
    Profiles,
    covered,
    origin,
    pattern,
    placed,
    profiles,
    window_sides,
)
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel, column
from jaxrobust.types import Attack, LogitsFn

Propose = Callable[[Array, Array, Array, Array], Array]
"""(uniform f32[B,N], side i32[B], image, x_best) -> the next x to try."""

_TINY = 1e-12
_INSIDE = 1.0 - 1e-6


class SquareState(NamedTuple):
    """`x_best` has the largest margin so far, `margin` f32[B]; before the first query
    it is the start, not looked at yet."""

    x_best: Array
    margin: Array
    x_adv: Array
    found: Array


def square_machine(
    threat: ThreatModel, num_queries: int, p_init: float, rescale: bool
) -> Machine:
    """x' = P[x_best + window pattern], kept where margin(x') is larger or at least 0.

    The start has a random sign of eps for each column and channel (linf) or 5 x 5
    patterns (l2, l1); a query draws a window and a sign for each channel. linf: x' =
    P[x_best + 2 eps sign] inside of the window. l2 and l1: a second window gives up its
    part of the radius to the first, which adds a pattern to what it holds. The start
    and `num_queries` queries are one step each; `x_best` is the point of largest
    margin.

    Raises `UserError` where `p_init` is no share.

    Ref: Andriushchenko et al., arXiv:1912.00049, algorithms 1-3; l1 arXiv:2103.01208.
    Deviates: as in the paper every image draws its own windows, where AutoAttack's code
    draws one for the batch, so that batching cannot change a result; success is a wrong
    prediction, not a margin of 0. Kept from the code: windows start at floor(U (H -
    s)), so that smaller ones never reach the last row and column.
    """
    if not 0.0 < p_init <= 1.0:
        raise UserError(f"p_init of square must be a share in (0, 1], not {p_init}")
    linf = threat.norm == "linf"

    def start(work: Work) -> SquareState:
        keys = fold_rows(work.keys, jnp.asarray(0))
        x = (stripes if linf else tiles)(threat, keys, work.image)
        nothing = jnp.zeros(len(x), bool)
        return SquareState(x, jnp.full(len(x), -jnp.inf, x.dtype), x, nothing)

    def step(work: Work, logits_fn: LogitsFn, s: SquareState, position: Array):
        first = position == 0
        height, width, channels = work.image.shape[1:]
        sides = window_sides(threat.norm, num_queries, p_init, rescale, height, width)
        side = jnp.asarray(sides)[jnp.maximum(position - 1, 0)]
        propose, count = _linf_window, 2 + channels
        if not linf:
            table = profiles(threat.norm, int(sides.max()))
            propose, count = partial(_moved_mass, table), 5 + channels
        uniform = draw_uniform(fold_rows(work.keys, position), (count,))
        x = propose(threat, uniform, side, work.image, s.x_best)
        x = where_rows(first, s.x_best, x)
        logits = logits_fn(x)
        margin = losses.margin(logits, work.label)
        kept = first | (margin > s.margin) | (margin >= 0.0)
        return SquareState(
            x_best=where_rows(kept, x, s.x_best),
            margin=jnp.where(kept, margin, s.margin),
            x_adv=x,
            found=fooled(logits, work.label),
        )

    return Machine(num_queries + 1, start, step, forwards=1, backwards=0)


def draw_uniform(keys: Array, shape: tuple[int, ...]) -> Array:
    """f32[B,*shape] in [0, 1): all that a row draws at once."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def stripes(threat: ThreatModel, keys: Array, image: Array) -> Array:
    """The image with eps added to or taken from each column of each channel."""
    sign = _sign(draw_uniform(keys, (1, *image.shape[2:])))
    return threat.project(image + threat.eps * sign, image)


def tiles(threat: ThreatModel, keys: Array, image: Array) -> Array:
    """The image under about 5 x 5 patterns of random signs and orientation, centred."""
    count, height, width, channels = image.shape
    side = max(min(height, width) // 5, 1)
    grid = (height // side, width // side)
    uniform = draw_uniform(keys, (*grid, 1 + channels))
    eta = jnp.asarray(pattern(profiles(threat.norm, side), side))
    turned = uniform[..., :1, None] > 0.5
    eta = jnp.where(turned, eta.T[None, None, None], eta[None, None, None])
    sign = _sign(uniform[..., 1:])[..., None, None, :]
    delta = jnp.moveaxis(eta[..., None] * sign, 3, 2)
    delta = delta.reshape(count, grid[0] * side, grid[1] * side, channels)
    gaps = [(0, 0), *((n % side // 2, -(-(n % side) // 2)) for n in (height, width))]
    delta = jnp.pad(delta, (*gaps, (0, 0)))
    return _onto(threat, delta, image)


def _linf_window(
    threat: ThreatModel, uniform: Array, side: Array, image: Array, x: Array
) -> Array:
    """P[x + 2 eps sign] inside one window, a sign for each channel."""
    inside = _window(uniform[:, :2], side, image)[2]
    sign = _sign(uniform[:, 2:])[:, None, None, :]
    return threat.project(x + 2.0 * threat.eps * sign * inside, image)


def _moved_mass(
    table: Profiles,
    threat: ThreatModel,
    uniform: Array,
    side: Array,
    image: Array,
    x: Array,
) -> Array:
    """Radius that the second window and the ball have to spare, moved to the first."""
    delta, channels = x - image, x.shape[-1]
    top, left, first = _window(uniform[:, :2], side, image)
    _, _, second = _window(uniform[:, 2:4], side, image)
    size = partial(_size, threat.norm)
    turned = uniform[:, 4] > 0.5
    eta = placed(table, top, left, side, turned, image.shape[1:3])[..., None]
    held = delta * first
    new = eta * first * _sign(uniform[:, 5:])[:, None, None, :]
    new = new + held / (size(held) + _TINY)
    here = size(delta * (first | second))
    whole = size(delta, (1, 2, 3))
    if threat.norm == "l2":
        spare = jnp.maximum(threat.eps**2 - whole**2, 0.0)
        target = jnp.sqrt(spare / channels + here**2)
    else:
        target = jnp.maximum(threat.eps - whole, 0.0) + here * channels
    new = new / (size(new) + _TINY) * target
    delta = jnp.where(first, new, jnp.where(second, 0.0, delta))
    return _onto(threat, delta, image)


def _onto(threat: ThreatModel, delta: Array, image: Array) -> Array:
    """delta scaled to the sphere (l2) or projected onto the ball (l1), in the box."""
    if threat.norm == "l1":
        inner = replace(threat, eps=threat.eps * _INSIDE)
        return inner.project(image + delta, image)
    size = column(threat.distance(delta, jnp.zeros_like(delta)))
    return threat.clip(image + threat.eps * delta / (size + _TINY))


def _window(uniform: Array, side: Array, image: Array) -> tuple[Array, Array, Array]:
    """(top i32[B], left i32[B], bool[B,H,W,1]) of a window drawn by f32[B,2]."""
    height, width = image.shape[1:3]
    top = origin(uniform[:, 0], height, side)
    left = origin(uniform[:, 1], width, side)
    rows, columns = covered(top, side, height), covered(left, side, width)
    return top, left, (rows[:, :, None] & columns[:, None, :])[..., None]


def _size(norm: str, values: Array, axes: tuple[int, ...] = (1, 2)) -> Array:
    if norm == "l2":
        return jnp.sqrt(jnp.sum(values**2, axes, keepdims=True))
    return jnp.sum(jnp.abs(values), axes, keepdims=True)


def _sign(uniform: Array) -> Array:
    return jnp.where(uniform >= 0.5, 1.0, -1.0)


def square_component(
    name: str, num_queries: int, runs: int, p_init: float, rescale: bool
) -> Component:
    """Square over `runs` restarts."""
    options = (("num_queries", num_queries), ("p_init", p_init), ("rescale", rescale))
    return Component(name, square_machine, options, runs, targeted=False)


def square(
    threat: ThreatModel,
    num_queries: int,
    num_restarts: int,
    p_init: float,
    rescale: bool,
) -> Attack:
    """`square_machine` as an attack: the first success, else the largest margin.

    It only ever calls the network, so that one without gradients will do. AutoAttack:
    5000 queries, p_init 0.8, rescale False; with `rescale` the schedule of 10000
    queries is squeezed into `num_queries`.
    """
    component = square_component("square", num_queries, num_restarts, p_init, rescale)
    return as_attack(component, threat)
