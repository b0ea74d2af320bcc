"""The windows of the Square attack: how large, and which pattern they carry."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

_HALVE_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_POWER = {"l2": 2, "l1": 4}
"""How fast a pyramid falls off from its top."""


class Profiles(NamedTuple):
    """Pyramid pairs of every side s, factored so that no table over pixels is needed.

    eta_s[r, c] = gain[s, r] min(steep[s, r], flat[s, c]), each f64[S + 1, S].
    """

    gain: np.ndarray
    steep: np.ndarray
    flat: np.ndarray


def window_sides(
    norm: str, num_queries: int, p_init: float, rescale: bool, height: int, width: int
) -> np.ndarray:
    """i32[num_queries]: the side of the window of each query.

    The share of pixels starts at `p_init` and is halved after 10, 50, 200, 500, 1000,
    2000, 4000, 6000 and 8000 queries, or with `rescale` at these shares of 10000. In l2
    and l1 sides are odd and at least 3, as far as the image is that large.

    Ref: Andriushchenko et al., arXiv:1912.00049, section 4.2.
    """
    query = np.arange(num_queries)
    if rescale:
        query = (query / num_queries * 10000).astype(int)
    halvings = np.searchsorted(_HALVE_AFTER, query, side="left")
    side = np.round(np.sqrt(p_init / 2.0**halvings * height * width)).astype(int)
    if norm == "linf":
        side = np.maximum(side, 1)
    else:
        side = np.maximum(side, 3)
        side += side % 2 == 0
    return np.minimum(side, min(height, width)).astype(np.int32)


def profiles(norm: str, largest: int) -> Profiles:
    """The patterns of sides 1 to `largest`: two pyramids one above the other, the lower
    one negative, of unit norm (l2 or l1) together and equal norms each.

    A pyramid is a pile of centred squares of sides 1, 3, 5, ..., the k-th one of height
    1 / k^2 (l2) or 1 / k^4 (l1), cut off by the borders of its half.

    Ref: Andriushchenko et al., arXiv:1912.00049, section 4.3; l1: arXiv:2103.01208,
    appendix A.
    """
    shape = (largest + 1, largest)
    gain, steep, flat = (np.zeros(shape, np.float64) for _ in range(3))
    for side in range(1, largest + 1):
        heights = 1.0 / np.arange(1, side // 2 + 2) ** _POWER[norm]
        pile = np.cumsum(heights[::-1])[::-1]
        place, upper = np.arange(side), side // 2
        flat[side, :side] = pile[np.abs(place - side // 2)]
        halves = [(0, upper, 1.0), (upper, side - upper, -1.0)]
        for start, length, sign in halves[upper == 0 :]:
            rows = slice(start, start + length)
            steep[side, rows] = pile[np.abs(np.arange(length) - length // 2)]
            half = np.minimum(steep[side, rows, None], flat[side, None, :side])
            gain[side, rows] = sign / _size(norm, half)
        gain[side] /= _size(norm, pattern(Profiles(gain, steep, flat), side))
    return Profiles(gain, steep, flat)


def pattern(table: Profiles, side: int) -> np.ndarray:
    """eta_side, [side, side]."""
    gain, steep, flat = (x[side, :side] for x in table)
    return gain[:, None] * np.minimum(steep[:, None], flat[None, :])


def _size(norm: str, values: np.ndarray) -> float:
    power = 2 if norm == "l2" else 1
    return float((np.abs(values) ** power).sum() ** (1.0 / power))


def origin(uniform: Array, length: int, side: Array) -> Array:
    """floor(U (length - s)), i32[B]: where a window of side s begins along an axis."""
    return jnp.floor(uniform * (length - side)).astype(jnp.int32)


def covered(start: Array, side: Array, length: int) -> Array:
    """bool[B,length]: the places of an axis that lie in [start, start + side)."""
    place = jnp.arange(length, dtype=jnp.int32)[None, :]
    return (place >= start[:, None]) & (place < (start + side)[:, None])


def placed(
    table: Profiles, top: Array, left: Array, side: Array, turned: Array, shape
) -> Array:
    """f32[B,H,W]: eta_side with its corner at (top, left), transposed where `turned`
    bool[B]; only its values inside the window mean anything."""

    def along(values: np.ndarray, start: Array, length: int) -> Array:
        place = jnp.arange(length, dtype=jnp.int32)[None, :] - start[:, None]
        place = jnp.clip(place, 0, values.shape[1] - 1)
        return jnp.asarray(values)[side[:, None], place]

    height, width = shape
    rows = [along(x, top, height)[:, :, None] for x in table]
    columns = [along(x, left, width)[:, None, :] for x in table]
    upright = rows[0] * jnp.minimum(rows[1], columns[2])
    lying = columns[0] * jnp.minimum(columns[1], rows[2])
    return jnp.where(turned[:, None, None], lying, upright)
