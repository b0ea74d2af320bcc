"""Crops, flips and shifts that a gradient flows through, with shapes that never change.

A crop is a matrix product along each axis (bilinear weights from a box), so boxes may
be traced. "Shared" functions take one key and move the whole batch alike; the others
take a key for each row.

Ref: Yin et al., SRe2L, arXiv:2306.13092, section 3 (multi-crop); Yin and Shen, CDA,
arXiv:2311.18838 (the curriculum).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

TRIES = 10

Range = tuple[Array | float, Array | float]

MultiCrop = Callable[[Array, Array, Array], Array]
"""(key, step i32[], image f32[B,H,W,C]) -> f32[B,H,W,C], the whole batch alike."""


class Box(NamedTuple):
    """Part of an image, in pixels f32[] from the top left corner, not rounded."""

    top: Array
    left: Array
    height: Array
    width: Array


def random_box(key: Array, height: int, width: int, scale: Range, ratio: Range) -> Box:
    """A box of area ~ U(scale) H W and log(width / height) ~ U(log ratio), anywhere.

    The first of 10 draws that fits; else the largest central box with a ratio in range.

    Ref: torchvision's RandomResizedCrop. Deviates: corners and sides are not rounded to
    whole pixels.
    """
    to_area, to_ratio, to_place = jax.random.split(key, 3)
    low, high = jnp.asarray(ratio[0]), jnp.asarray(ratio[1])
    area = height * width * jax.random.uniform(to_area, (TRIES,), float, *scale)
    shape = jax.random.uniform(to_ratio, (TRIES,), float, jnp.log(low), jnp.log(high))
    tall, wide = jnp.sqrt(area / jnp.exp(shape)), jnp.sqrt(area * jnp.exp(shape))
    fits = (tall <= height) & (wide <= width)
    first, found = jnp.argmax(fits), jnp.any(fits)
    tall = jnp.where(found, tall[first], jnp.minimum(height, width / low))
    wide = jnp.where(found, wide[first], jnp.minimum(width, height * high))
    place = jnp.where(found, jax.random.uniform(to_place, (2,)), 0.5)
    return Box(place[0] * (height - tall), place[1] * (width - wide), tall, wide)


def crop_resize(image: Array, box: Box) -> Array:
    """The box of image f32[H,W,C], enlarged to H x W by bilinear interpolation.

    Pixel centres are at half-integers; beyond the image its edge goes on. Boxes no
    larger than the image only: there is no filter against aliasing.
    """
    height, width, _ = image.shape
    rows = _weights(box.top, box.height, height)
    columns = _weights(box.left, box.width, width)
    # Accelerators would round pixels to bfloat16 or so.
    exact = lax.Precision.HIGHEST
    return jnp.einsum("yh,xw,hwc->yxc", rows, columns, image, precision=exact)


def shared_crop(key: Array, image: Array, scale: Range, ratio: Range) -> Array:
    """One `random_box` for all of image f32[B,H,W,C]."""
    box = random_box(key, image.shape[1], image.shape[2], scale, ratio)
    return jax.vmap(crop_resize, in_axes=(0, None))(image, box)


def row_crops(keys: Array, image: Array, scale: Range, ratio: Range) -> Array:
    """A `random_box` for each row of image f32[B,H,W,C], from keys[B]."""

    def crop(key: Array, one: Array) -> Array:
        height, width, _ = one.shape
        return crop_resize(one, random_box(key, height, width, scale, ratio))

    return jax.vmap(crop)(keys, image)


def shared_flip(key: Array, image: Array) -> Array:
    """Mirror all of image f32[B,H,W,C] left and right, or none, one time in two."""
    return jnp.where(jax.random.bernoulli(key), image[:, :, ::-1], image)


def shared_roll(key: Array, image: Array, low: int, high: int) -> Array:
    """Shift image f32[B,H,W,C] cyclically by low..high pixels (both included) down
    and, drawn apart, to the right."""
    shift = jax.random.randint(key, (2,), low, high + 1)
    return jnp.roll(image, shift, axis=(1, 2))


def curriculum(
    step: Array | int, total_steps: int, least_scale: float, milestone: float
) -> Array:
    """The least scale of a crop at `step`, f32[]: from 1 to `least_scale` along half a
    cosine over the share `milestone` of the steps; 0 starts at its end."""
    ramp = milestone * total_steps
    done = jnp.clip(jnp.asarray(step) / ramp, 0.0, 1.0) if ramp else 1.0
    return least_scale + (1 - least_scale) * (1 + jnp.cos(jnp.pi * done)) / 2


def make_multi_crop(
    *,
    total_steps: int,
    least_scale: float,
    milestone: float,
    ratio: tuple[float, float],
    flip: bool,
    jitter: tuple[int, int],
) -> MultiCrop:
    """What the teacher sees of the images at each step: crop, flip, roll by `jitter`.

    `least_scale` 1 leaves the crop out, `jitter` (0, 0) the roll. `milestone` 0 is
    SRe2L, more is CDA. Published: ImageNet (.08, flip, (0, 32)), TinyImageNet (.08,
    flip, (-4, 4)), CIFAR (1, no flip, (0, 4)). On 8x8 digits crops work against the
    statistics term: an enlarged part has other statistics than a whole image.
    """

    def view(key: Array, step: Array, image: Array) -> Array:
        to_crop, to_flip, to_roll = jax.random.split(key, 3)
        if least_scale < 1:
            low = curriculum(step, total_steps, least_scale, milestone)
            image = shared_crop(to_crop, image, (low, 1.0), ratio)
        if flip:
            image = shared_flip(to_flip, image)
        if any(jitter):
            image = shared_roll(to_roll, image, *jitter)
        return image

    return view


def _weights(start: Array, length: Array, size: int) -> Array:
    """f32[size,size] from places along an axis to places along start..start+length."""
    place = start + (jnp.arange(size) + 0.5) * (length / size) - 0.5
    place = jnp.clip(place, 0, size - 1)
    away = jnp.abs(place[:, None] - jnp.arange(size)[None, :])
    return jnp.maximum(0.0, 1.0 - away)
