"""Logits of a whole set, batch by batch."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from jaxrobust.loader import to_unit
from jaxrobust.types import LogitsFn


def predict(
    logits_fn: LogitsFn,
    gather: Callable[[np.ndarray], np.ndarray],
    count: int,
    batch_size: int,
) -> np.ndarray:
    """f32[count,K] of the images `gather(index)` u8 or f32 [n,H,W,C]; one shape."""
    network, found = as_tree(logits_fn), []
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size) % count
        found.append(np.asarray(_logits(network, gather(rows))))
    return np.concatenate(found)[:count]


@jax.jit
def _logits(logits_fn: LogitsFn, image: Array) -> Array:
    return logits_fn(to_unit(image) if image.dtype == np.uint8 else image)


def as_tree(logits_fn: LogitsFn) -> jax.tree_util.Partial:
    """A network that jitted functions take as an argument, its weights (where it
    carries them) with it."""
    if isinstance(logits_fn, jax.tree_util.Partial):
        return logits_fn
    return jax.tree_util.Partial(logits_fn)
