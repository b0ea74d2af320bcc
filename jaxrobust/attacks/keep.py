"""The strongest image of each row so far, as pairs (x f32[B,H,W,C], margin f32[B])."""

import jax.numpy as jnp
from jax import Array

from jaxrobust import losses
from jaxrobust.attacks.machine import where_rows

Kept = tuple[Array, Array]


def none_yet(image: Array) -> Kept:
    """`image` with a margin that every other beats."""
    return image, jnp.full(len(image), -jnp.inf)


def better(best: Kept, x: Array, logits: Array, target: Array) -> Kept:
    """Row by row the pair of larger margin: `best`, or `x` with its `logits`."""
    return larger(best, x, losses.margin(logits, losses.hard(target)))


def larger(best: Kept, x: Array, margin: Array) -> Kept:
    """Row by row the pair of larger margin; a NaN never wins."""
    wins = margin > best[1]
    return where_rows(wins, x, best[0]), jnp.where(wins, margin, best[1])
