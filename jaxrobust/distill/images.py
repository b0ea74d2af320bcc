"""Synthetic images f32[K,ipc,H,W,C] in [0,1], row k of class k: how they begin, move,
and are read."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrobust.types import Batch, PyTree


def noise_images(
    key: Array,
    shape: tuple[int, ...],
    mean: Sequence[float] | Array,
    std: Sequence[float] | Array,
) -> Array:
    """Pixels N(mean, std^2) by channel in `shape` [...,H,W,C], clipped to [0,1]."""
    noise = jax.random.normal(key, shape)
    return jnp.clip(by_channel(mean, shape) + by_channel(std, shape) * noise, 0.0, 1.0)


def image_sgd(
    learning_rate: float, momentum: float, std: Sequence[float]
) -> optax.GradientTransformation:
    """SGD with momentum whose published rate is for pixels divided by `std`.

    In [0,1] pixels the same movement takes the rate learning_rate * std^2.
    """

    def update(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return -learning_rate * by_channel(std, updates.shape) ** 2 * updates

    return optax.chain(optax.trace(momentum), optax.stateless(update))


def as_batch(image: Array) -> Batch:
    """f32[K,ipc,H,W,C] as one batch of K ipc images, class after class."""
    classes, ipc = image.shape[:2]
    label = jnp.repeat(jnp.arange(classes, dtype=jnp.int32), ipc)
    return labelled(image.reshape(-1, *image.shape[2:]), label)


def labelled(image: Array, label: Array) -> Batch:
    """Images f32[B,H,W,C] with their labels i32[B], or one label i32[] for all."""
    count = len(image)
    labels = jnp.broadcast_to(label, (count,))
    return Batch(image, labels, jnp.ones(count), jnp.arange(count, dtype=jnp.int32))


def epoch_rows(key: Array, size: int, batch_size: int) -> Array:
    """The positions 0..size-1 in a new order, cut into ceil(size / batch_size) batches
    of one size, i32[batches,B]; fewer than there are batches are left over."""
    count = -(-size // batch_size)
    order = jax.random.permutation(key, size)[: count * (size // count)]
    return order.reshape(count, -1)


def by_channel(values: Sequence[float] | Array, shape: Sequence[int]) -> Array:
    """f32[1,...,1,C], to be combined with images of `shape` [...,C]."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (len(shape) - 1) + (-1,))
