"""Augmentation on the device: pixels in [0,1] in, pixels in [0,1] out.

Every draw comes from a key of its own row, so a row's augmentation does not depend on
the batch around it (CutMix draws its partner from the batch by nature).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrobust import losses, rng
from jaxrobust.errors import unknown_name
from jaxrobust.types import Batch

SCOPES = ("all", "generated")
Augment = Callable[[Array, Batch], Batch]


def make_augment(
    crop_pad: int,
    flip: bool,
    cutmix_alpha: float,
    label_smoothing: float,
    smoothing_scope: str,
    num_classes: int,
    num_original: int,
) -> Augment:
    """(key, Batch) -> Batch: pad-and-crop, flip, label smoothing, then CutMix.

    `smoothing_scope` says whose labels are smoothed: "all" or "generated" (pool index
    >= `num_original`). With neither smoothing nor CutMix the labels stay integers.
    Raises `UserError` for another scope.
    """
    if smoothing_scope not in SCOPES:
        raise unknown_name("smoothing_scope", smoothing_scope, SCOPES)

    def augment(key: Array, batch: Batch) -> Batch:
        row_keys = rng.per_example(key, batch.index)
        to_crop, to_flip = rng.split_rows(row_keys)
        image = batch.image
        if crop_pad:
            image = random_crop(to_crop, image, crop_pad)
        if flip:
            image = random_flip(to_flip, image)
        batch = batch._replace(image=image)
        if label_smoothing or cutmix_alpha:
            smoothed = batch.index >= (
                num_original if smoothing_scope == "generated" else 0
            )
            rate = label_smoothing * smoothed.astype(jnp.float32)
            soft = losses.smooth_labels(batch.label, num_classes, rate)
            batch = batch._replace(soft_label=soft)
        if cutmix_alpha:
            # A row's key is fold_in(key, index); no index is as large as this.
            batch = cutmix(jax.random.fold_in(key, 2**32 - 1), batch, cutmix_alpha)
        return batch

    return augment


def random_crop(keys: Array, image: Array, pad: int) -> Array:
    """Zero-pad by `pad` pixels on each side, crop back to H x W at a random place."""
    wide = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop(key: Array, padded: Array) -> Array:
        corner = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        return lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape[1:])

    return jax.vmap(crop)(keys, wide)


def random_flip(keys: Array, image: Array) -> Array:
    """Mirror left and right with probability one half."""
    coin = jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None]
    return jnp.where(coin, image[:, :, ::-1], image)


def cut_box(kept: Array, center: Array, side: tuple[int, ...]) -> Array:
    """bool[H,W]: a box of the shape of the image H x W and 1 - `kept` f32[] of its
    area, around `center` f32[2] in [0,1), cut at the border."""
    sides = jnp.array(side)
    half, middle = jnp.sqrt(1.0 - kept) * sides / 2, center * sides
    low = jnp.floor(jnp.clip(middle - half, 0, sides))
    high = jnp.floor(jnp.clip(middle + half, 0, sides))
    row, column = jnp.arange(side[0]), jnp.arange(side[1])
    rows = (row >= low[0]) & (row < high[0])
    columns = (column >= low[1]) & (column < high[1])
    return rows[:, None] & columns[None, :]


def cutmix(key: Array, batch: Batch, alpha: float) -> Batch:
    """Paste a box of a partner image and mix the labels by its true area.

    The share kept is lambda ~ Beta(alpha, alpha), one box for each row, partners by a
    random permutation of the batch.

    Ref: Yun et al., arXiv:1905.04899. Deviates: a box and a lambda for each row, where
    the released code draws one for the whole batch.
    """
    assert batch.soft_label is not None
    size, height, width, _ = batch.image.shape
    to_lambda, to_center, to_partner = jax.random.split(key, 3)
    kept = jax.random.beta(to_lambda, alpha, alpha, (size,))
    center = jax.random.uniform(to_center, (size, 2))
    box = jax.vmap(cut_box, in_axes=(0, 0, None))(kept, center, (height, width))
    partner = jax.random.permutation(to_partner, size)
    pasted = jnp.mean(box, axis=(1, 2))[:, None]
    image = jnp.where(box[..., None], batch.image[partner], batch.image)
    soft = batch.soft_label * (1 - pasted) + batch.soft_label[partner] * pasted
    return batch._replace(image=image, soft_label=soft)
