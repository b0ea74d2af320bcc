"""Randomized smoothing: the class that a network names most often under Gaussian noise,
counted on the device.

Noise is keyed by (image, number of the draw): counts do not change with the batch size,
the order of images, the number of devices (to the rounding of the network itself), or
an interruption.

Ref: Cohen et al., arXiv:1902.02918.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust import sharding
from jaxrobust.errors import UserError
from jaxrobust.evaluators.certificate import (
    Certificates,
    certificates,
    check_draws,
    votes,
)
from jaxrobust.evaluators.predict import as_tree
from jaxrobust.types import LogitsFn

CERTIFY_SIDES, PREDICT_SIDES = 1, 2


def certify(
    logits_fn: LogitsFn,
    image: Array,
    keys: Array,
    sigma: float,
    n0: int,
    n: int,
    alpha: float,
    noise_batch: int,
    mesh: Mesh,
) -> Certificates:
    """CERTIFY of g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c) at images f32[B,H,W,C].

    `keys` [B], one for each image; draws 0..n0-1 select the class, the next n estimate
    its probability; about `noise_batch` noisy copies go through the network at once.
    The noise is not clipped to the pixels' range: the certificate needs all of it.
    Raises `UserError` where n draws could certify nothing.
    """
    check_draws(sigma, n, alpha, CERTIFY_SIDES)
    if n0 < 1:
        raise UserError(f"n0 = {n0} draws select no class: use n0 = 100")
    counts = count_classes(logits_fn, image, keys, sigma, n0, n, noise_batch, mesh)
    return certificates(*counts, sigma=sigma, n=n, alpha=alpha)


def smoothed_predict(
    logits_fn: LogitsFn,
    image: Array,
    keys: Array,
    sigma: float,
    n: int,
    alpha: float,
    noise_batch: int,
    mesh: Mesh,
) -> np.ndarray:
    """PREDICT of the same g: i64[B], -1 where n draws leave two classes in doubt.

    Raises `UserError` where n draws could decide nothing.
    """
    check_draws(sigma, n, alpha, PREDICT_SIDES)
    counts = count_classes(logits_fn, image, keys, sigma, 0, n, noise_batch, mesh)
    return votes(counts[1], alpha)


def count_classes(
    logits_fn: LogitsFn,
    image: Array,
    keys: Array,
    sigma: float,
    n0: int,
    n: int,
    noise_batch: int,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """How often each class is named, i64[B,K], in draws 0..n0-1 and n0..n0+n-1.

    Where a logit is NaN no class is named. One compilation serves every sigma, n0, n
    and network of an architecture.
    """
    copies = _copies(noise_batch, len(image), mesh.devices.size)
    found = _count(as_tree(logits_fn), image, keys, sigma, n0, n, copies, mesh)
    first, second = np.moveaxis(np.asarray(found, np.int64), 1, 0)
    return first, second


def _copies(noise_batch: int, images: int, devices: int) -> int:
    """Draws of each image in one batch, so that the batch splits over the devices."""
    unit = devices // np.gcd(images, devices)
    return max(noise_batch // images // unit, 1) * int(unit)


@partial(jax.jit, static_argnames=("copies", "mesh"))
def _count(logits_fn, image, keys, sigma, n0, n, copies: int, mesh: Mesh) -> Array:
    """i32[B,2,K]: the counts of the selecting and of the estimating draws."""
    num_classes = jax.eval_shape(logits_fn, image).shape[-1]
    repeated = jnp.repeat(image, copies, axis=0)
    draw_keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    normal = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))

    def batch(step: Array, counts: Array) -> Array:
        draw = step * copies + jnp.arange(copies)
        noise = normal(draw_keys(keys, draw).reshape(-1))
        noisy = sharding.split_batch(repeated + sigma * noise, mesh)
        named = _named(logits_fn(noisy)).reshape(len(image), copies, num_classes)
        # The last batch draws more than was asked for: these count nowhere.
        used = jnp.stack([draw < n0, (draw >= n0) & (draw < n0 + n)])
        return counts + jnp.einsum("bdk,pd->bpk", named, used.astype(jnp.int32))

    steps = (n0 + n + copies - 1) // copies
    start = jnp.zeros((len(image), 2, num_classes), jnp.int32)
    counts = jax.lax.fori_loop(0, steps, batch, start)
    return sharding.constrain_replicated(counts, mesh)


def _named(logits: Array) -> Array:
    """i32[B,K]: one at the largest logit, nowhere if one is NaN."""
    whole = ~jnp.any(jnp.isnan(logits), axis=-1, keepdims=True)
    largest = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    return (largest & whole).astype(jnp.int32)
