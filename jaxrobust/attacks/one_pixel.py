"""A few pixels of any colour, found by differential evolution: no gradients."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses, rng
from jaxrobust.attacks import keep
from jaxrobust.attacks.machine import fold_rows
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Attack, LogitsFn

_MEAN, _SPREAD = 0.5, 0.5
"""Colours start as N(128, 127) of 255."""


def one_pixel(
    threat: ThreatModel,
    pixels: int,
    population: int,
    generations: int,
    mutation: float,
) -> Attack:
    """max margin over images that differ from the clean one in at most `pixels` pixels.

    A candidate is `pixels` times (row, column, colours). In each generation every
    candidate c_i meets the child c_a + mutation (c_b - c_c) of three others, and the
    one of larger margin stays. Returns the strongest candidate, or the clean image
    where none raises the margin. The norm here is the number of pixels: `threat` gives
    the range of the colours, its eps is not read.

    Costs population (generations + 1) + 1 forward passes of one batch.

    Raises `UserError` if `population` < 4.

    Ref: Su et al., arXiv:1710.08864, section III.B (pixels 1, 3 or 5, population 400,
    generations 100, mutation 0.5, no crossover).
    Deviates: selects on the margin, which saturates nowhere, not on the label's
    probability; runs all generations; children that leave the image come back in on its
    other side, and colours are clipped.
    """
    if population < 4:
        raise UserError("one_pixel needs population >= 4: a child has three parents")

    def attack(keys: Array, logits_fn: LogitsFn, image: Array, target: Array) -> Array:
        label = losses.hard(target)
        to_first, to_children = rng.split_rows(keys)

        def margins(candidates: Array) -> Array:
            """f32[B,P] of f32[B,P,pixels,2+C], one candidate of each image a time."""
            score = lambda c: losses.margin(logits_fn(_paint(image, c)), label)
            return lax.map(score, jnp.moveaxis(candidates, 1, 0)).T

        def generation(number, parents):
            candidates, value = parents
            a, b, c = _three_others(fold_rows(to_children, number), candidates)
            children = _repair(threat, image, a + mutation * (b - c))
            child_value = margins(children)
            wins = child_value > value
            candidates = jnp.where(wins[:, :, None, None], children, candidates)
            return candidates, jnp.where(wins, child_value, value)

        draw = lambda key: _first(key, population, pixels, image.shape[1:])
        candidates = _repair(threat, image, jax.vmap(draw)(to_first))
        parents = lax.fori_loop(
            0, generations, generation, (candidates, margins(candidates))
        )
        best = _paint(image, _strongest(*parents))
        clean = losses.margin(logits_fn(image), label)
        kept = keep.larger((image, clean), best, jnp.max(parents[1], axis=1))
        return lax.stop_gradient(kept[0])

    return attack


def _first(key: Array, population: int, pixels: int, shape: tuple) -> Array:
    """Uniform places and normal colours, f32[P,pixels,2+C]."""
    height, width, channels = shape
    to_place, to_colour = jax.random.split(key)
    place = jax.random.uniform(to_place, (population, pixels, 2))
    colour = jax.random.normal(to_colour, (population, pixels, channels))
    scale = jnp.broadcast_to(jnp.array([height, width], jnp.float32), place.shape)
    return jnp.concatenate([place * scale, _MEAN + _SPREAD * colour], axis=-1)


def _repair(threat: ThreatModel, image: Array, candidates: Array) -> Array:
    """Places within the image, colours within the bounds."""
    _, height, width, _ = image.shape
    row, column = candidates[..., :1] % height, candidates[..., 1:2] % width
    return jnp.concatenate([row, column, threat.clip(candidates[..., 2:])], axis=-1)


def _three_others(keys: Array, candidates: Array) -> tuple[Array, Array, Array]:
    """For every candidate three different others of its own image, f32[B,P,...]."""
    size = candidates.shape[1]

    def of_image(key: Array, own: Array):
        draw = lambda k, high: jax.random.randint(k, (size,), 1, high)
        keys = jax.random.split(key, 3)
        # Offsets 1 .. size - 1 without replacement: step over those that are taken.
        first = draw(keys[0], size)
        second = draw(keys[1], size - 1)
        second += second >= first
        third = draw(keys[2], size - 2)
        third += third >= jnp.minimum(first, second)
        third += third >= jnp.maximum(first, second)
        place = lambda offset: own[(jnp.arange(size) + offset) % size]
        return place(first), place(second), place(third)

    return jax.vmap(of_image)(keys, candidates)


def _paint(image: Array, candidate: Array) -> Array:
    """The images with the pixels of one candidate each, f32[B,pixels,2+C]."""
    _, height, width, _ = image.shape

    def paint_pixel(x: Array, pixel: Array):
        # A mask, not a scatter: where two pixels meet, the later one counts.
        place = jnp.floor(pixel[:, :2]).astype(jnp.int32)
        row = jnp.minimum(place[:, :1], height - 1) == jnp.arange(height)[None]
        column = jnp.minimum(place[:, 1:], width - 1) == jnp.arange(width)[None]
        here = row[:, :, None, None] & column[:, None, :, None]
        return jnp.where(here, pixel[:, None, None, 2:], x), None

    return lax.scan(paint_pixel, image, jnp.moveaxis(candidate, 1, 0))[0]


def _strongest(candidates: Array, value: Array) -> Array:
    """Of each image the candidate of largest margin, f32[B,pixels,2+C]."""
    place = jnp.argmax(value, axis=1)[:, None, None, None]
    return jnp.take_along_axis(candidates, place, axis=1)[:, 0]
