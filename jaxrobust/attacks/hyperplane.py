"""The shortest way to a hyperplane inside the box of pixels, without any sort."""

import jax.numpy as jnp
from jax import Array, lax

from jaxrobust.threat import column

_PIXELS = (1, 2, 3)
_NEWTON_STEPS = {"linf": 12, "l2": 16}


def step_to_plane(
    norm: str, point: Array, slope: Array, value: Array, bounds: tuple[float, float]
) -> Array:
    """argmin ||d|| subject to value + <slope, d> = 0 and point + d in the box.

    `point` and `slope` f32[B,H,W,C]; `value` f32[B] is that of the linear function at
    the point; returns d f32[B,H,W,C]. Where the box does not reach the plane, every
    pixel of a nonzero slope goes to its bound; where the slope is zero, d is zero.

    Each pixel moves down (or up) the function by a size in [0, room]: min(l, room) in
    linf, min(l |w|, room) in l2, for the one l that closes the gap; in l1 the pixels of
    largest |w| use up their room first.

    Ref: Croce and Hein, arXiv:1907.02044 (projection on a plane in a box).
    Deviates: Newton and bisection for sorts (the same points to rounding); pixels of
    |w| < 1e-8 are not left out, as the result should not depend on the scale of the
    logits; equal |w| in l1 share what is left, in proportion to their room.
    """
    low, high = bounds
    toward = -column(jnp.sign(value)) * jnp.sign(slope)
    room = jnp.where(toward > 0, high - point, point - low)
    room = jnp.where(toward != 0, jnp.maximum(room, 0.0), 0.0)
    largest = jnp.max(jnp.abs(slope), _PIXELS, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0)
    weight = jnp.abs(slope) / scale
    gap = column(jnp.abs(value)) / scale
    if norm == "l1":
        size = _largest_first(weight, room, gap)
    else:
        pace = weight if norm == "l2" else jnp.ones_like(weight)
        size = _evenly(weight, pace, room, gap, _NEWTON_STEPS[norm])
    reachable = _total(weight * room) > gap
    return toward * jnp.where(reachable, size, room)


def _evenly(weight: Array, pace: Array, room: Array, gap: Array, steps: int) -> Array:
    """min(l pace, room) with sum_i weight_i min(l pace_i, room_i) = gap.

    The sum is concave and piecewise linear in l, so that Newton's method from 0 climbs
    to the root without passing it and ends on its linear piece.
    """

    def newton(_, length: Array) -> Array:
        left = gap - _total(weight * jnp.minimum(length * pace, room))
        rate = _total(weight * pace * (length * pace < room))
        return length + jnp.where(rate > 0, left / jnp.where(rate > 0, rate, 1.0), 0.0)

    length = lax.fori_loop(0, steps, newton, jnp.zeros_like(gap))
    return jnp.minimum(length * pace, room)


def _largest_first(weight: Array, room: Array, gap: Array) -> Array:
    """The room of all pixels above a threshold of weight, and a share at it.

    Weights are >= 0, so their bit patterns are ordered like them: halving the bracket
    of patterns ends at one very weight after as many steps as a pattern has bits.
    """
    bits = jnp.finfo(weight.dtype).bits
    pattern = lax.bitcast_convert_type(weight, jnp.dtype(f"int{bits}"))
    gain = weight * room
    above = lambda threshold: _total(gain * (pattern > threshold))

    def halve(_, bracket: tuple[Array, Array]):
        low, high = bracket
        middle = low + (high - low + 1) // 2
        fits = above(middle) <= gap
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    high = jnp.max(pattern, _PIXELS, keepdims=True)
    _, threshold = lax.fori_loop(0, bits, halve, (-jnp.ones_like(high), high))
    at = pattern == threshold
    here = _total(gain * at)
    share = jnp.where(here > 0, (gap - above(threshold)) / (here + (here == 0)), 0.0)
    return room * ((pattern > threshold) + at * jnp.clip(share, 0.0, 1.0))


def _total(x: Array) -> Array:
    return jnp.sum(x, _PIXELS, keepdims=True)
