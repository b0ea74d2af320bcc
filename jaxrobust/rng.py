"""Randomness as a function of (seed, step, image index): nothing is drawn in secret."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PURPOSES = ("init", "train", "attack", "augment", "score", "select", "sample", "eval")


class StepKeys(NamedTuple):
    """Named keys of one training step."""

    augment: Array
    select: Array
    attack: Array
    model: Array


def purpose_key(seed: int, purpose: str) -> Array:
    """The key of one purpose of a run; purposes never share a stream."""
    return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))


def step_keys(base_key: Array, step: Array | int) -> StepKeys:
    """Keys of step `step`, a pure function of both: a resumed run draws the same."""
    return StepKeys(*jax.random.split(jax.random.fold_in(base_key, step), 4))


def per_example(key: Array, index: Array) -> Array:
    """Keys [B], one for each image index: what a row draws depends on no other row."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The host-side order int64[size] of one epoch, a function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch, 0xDA7A]).permutation(size)


def host_choice(seed: int, stream: int, size: int, count: int) -> np.ndarray:
    """`count` different numbers below `size`, sorted; a function of (seed, stream)."""
    drawn = np.random.default_rng([seed, stream, 0xC401CE]).choice(
        size, size=count, replace=False
    )
    return np.sort(drawn)


def host_draw(seed: int, step: int, size: int, count: int) -> np.ndarray:
    """`count` numbers below `size`, int64, with replacement; a function of (seed,
    step)."""
    return np.random.default_rng([seed, step, 0xD2A1]).integers(size, size=count)


def split_rows(keys: Array, count: int = 2) -> tuple[Array, ...]:
    """Split every key of keys[B] into `count` keys, returned as a tuple of keys[B]."""
    return tuple(
        jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, count))(keys), 1, 0)
    )
