"""Differentiable siamese augmentation: real and synthetic images moved alike.

With one key all images, of both sets, go through the same operation with the same
parameters, so that their gradients stay comparable and the synthetic pixels learn
through the operation. To train a network each row has parameters of its own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import rng
from jaxrobust.errors import UserError
from jaxrobust.registry import lookup

Augment = Callable[[Array, Array], Array]
"""(key, image f32[B,H,W,C]) -> f32[B,H,W,C]."""


class Strengths(NamedTuple):
    """How far each operation goes; zeros make all of them the identity.

    `brightness` in units of the pixels' std; `saturation` and `contrast` factors away
    from 1; `crop` the largest shift and `cutout` the side of the hole, as shares of the
    image; `flip` a probability; `scale` factors from 1 / (1 + scale) to 1 + scale;
    `rotate` degrees.
    """

    brightness: float
    saturation: float
    contrast: float
    crop: float
    cutout: float
    flip: float
    scale: float
    rotate: float


PUBLISHED = Strengths(
    brightness=0.5,
    saturation=1.0,
    contrast=0.5,
    crop=0.125,
    cutout=0.5,
    flip=0.5,
    scale=0.2,
    rotate=15.0,
)
"""The constants of the released code."""


class Space(NamedTuple):
    """The pixels' mean and std f32[C], those of the model: colours are changed in
    normalised units, and what comes from outside of the image is `mean`."""

    mean: Array
    std: Array


def make_dsa(
    ops: Sequence[str],
    strengths: Strengths,
    mean: Sequence[float],
    std: Sequence[float],
    siamese: bool,
) -> Augment:
    """One of `ops`, drawn uniformly for the call, applied to all images.

    `siamese` draws one set of parameters from the key for all rows, so the same key
    does the same to another batch, of any size; otherwise each row has its own. The
    result may leave [0,1]: clipping would stop gradients. An empty `ops` is the
    identity. Raises `UserError` for an unknown operation or too few channels.

    Ref: Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation,
    arXiv:2102.08259, section 3 and the released constants. Deviates: rotation keeps
    angles in images that are not square.
    """
    if len(mean) != len(std):
        raise UserError(f"mean has {len(mean)} numbers, std {len(std)}: give as many")
    space = Space(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
    chosen = [
        jax.vmap(
            partial(lookup("DSA operation", OPS, name), strengths, space),
            in_axes=(None if siamese else 0, 0),
        )
        for name in ops
    ]
    if not chosen:
        return unchanged

    def augment(key: Array, image: Array) -> Array:
        to_op, drawn = jax.random.split(key)
        if not siamese:
            drawn = rng.per_example(drawn, jnp.arange(len(image)))
        if len(chosen) == 1:
            return chosen[0](drawn, image)
        op = jax.random.randint(to_op, (), 0, len(chosen))
        return lax.switch(op, chosen, drawn, image)

    return augment


def unchanged(key: Array, image: Array) -> Array:
    """The image itself: gradient matching without augmentation."""
    return image


def color(strengths: Strengths, space: Space, key: Array, image: Array) -> Array:
    """Brightness, then saturation about the mean of each pixel, then contrast about
    that of the image [H,W,C]."""
    draw = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
    start = (image - _pixel(space.mean)) / _pixel(space.std)
    x = start + strengths.brightness * draw[0]
    gray = jnp.mean(x, axis=2, keepdims=True)
    x = x + strengths.saturation * draw[1] * (x - gray)
    x = x + strengths.contrast * draw[2] * (x - jnp.mean(x))
    return image + _pixel(space.std) * (x - start)


def crop(strengths: Strengths, space: Space, key: Array, image: Array) -> Array:
    """Shift by whole pixels, each way by up to `crop` of the side."""
    reach = [int(strengths.crop * side + 0.5) for side in image.shape[:2]]
    high = jnp.asarray([2 * r + 1 for r in reach])
    corner = jax.random.randint(key, (2,), 0, high)
    pads = [(r, r) for r in reach] + [(0, 0)]
    wide = jnp.pad(image, pads)
    inside = jnp.pad(jnp.ones((*image.shape[:2], 1), bool), pads)
    cut = lambda x: lax.dynamic_slice(
        x, (corner[0], corner[1], 0), (*image.shape[:2], x.shape[2])
    )
    return jnp.where(cut(inside), cut(wide), _pixel(space.mean))


def cutout(strengths: Strengths, space: Space, key: Array, image: Array) -> Array:
    """A box of `cutout` of the sides, cut off at the border, becomes the mean."""
    sides = image.shape[:2]
    size = [int(strengths.cutout * side + 0.5) for side in sides]
    high = jnp.asarray([side + 1 - s % 2 for side, s in zip(sides, size)])
    center = jax.random.randint(key, (2,), 0, high)
    masks = []
    for axis in (0, 1):
        place = jnp.arange(sides[axis]) - (center[axis] - size[axis] // 2)
        masks.append((place >= 0) & (place < size[axis]))
    hole = masks[0][:, None, None] & masks[1][None, :, None]
    return jnp.where(hole, _pixel(space.mean), image)


def flip(strengths: Strengths, space: Space, key: Array, image: Array) -> Array:
    """Mirror left and right with probability `flip`."""
    coin = jax.random.bernoulli(key, strengths.flip)
    return jnp.where(coin, mirror(image), image)


def scale(strengths: Strengths, space: Space, key: Array, image: Array) -> Array:
    """Zoom about the centre, a factor for each axis, in or out."""
    most = 1.0 + strengths.scale
    factor = jax.random.uniform(key, (2,), minval=1.0 / most, maxval=most)
    return affine(image, jnp.diag(factor), space.mean)


def rotate(strengths: Strengths, space: Space, key: Array, image: Array) -> Array:
    """Turn about the centre by up to `rotate` degrees either way."""
    angle = jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(strengths.rotate) * angle
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    matrix = jnp.stack([jnp.stack([cosine, sine]), jnp.stack([-sine, cosine])])
    return affine(image, matrix, space.mean)


OPS = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}
"""(strengths, space, key, image [H,W,C]) -> [H,W,C]."""


def mirror(image: Array) -> Array:
    """Left and right of one image [H,W,C] change places."""
    return image[:, ::-1]


def affine(image: Array, matrix: Array, fill: Array) -> Array:
    """[H,W,C] read at center + matrix (place - center), bilinear, `fill` outside.

    Places are (row, column) in pixels; the centre lies in the middle of the image.
    """
    height, width, _ = image.shape
    middle, center = (height - 1) / 2, (width - 1) / 2
    rows, columns = jnp.mgrid[:height, :width]
    down, right = rows.ravel() - middle, columns.ravel() - center
    # Written out: on some devices a matrix product would round the places.
    y = middle + matrix[0, 0] * down + matrix[0, 1] * right
    x = center + matrix[1, 0] * down + matrix[1, 1] * right
    top, left = jnp.floor(y), jnp.floor(x)
    total = jnp.zeros((height * width, image.shape[2]))
    for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = top + below, left + beside
        share = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        i = jnp.clip(row, 0, height - 1).astype(jnp.int32)
        j = jnp.clip(column, 0, width - 1).astype(jnp.int32)
        tap = jnp.where(inside[:, None], image[i, j], fill[None, :])
        total += share[:, None] * tap
    return total.reshape(image.shape)


def _pixel(values: Array) -> Array:
    return values[None, None, :]
