"""Synthetic and real images of each class, and a network that is to match them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.state import create_state
from tests.helpers import CLASSES, SHAPE, random_images, variables_of

IPC, REAL = 2, 5
KEY = jax.random.key(3)


def by_class(count, seed):
    """f32[K,count,H,W,C]."""
    images = random_images(CLASSES * count, seed)
    return jnp.asarray(images.reshape(CLASSES, count, *SHAPE))


SYNTHETIC, IMAGES = by_class(IPC, seed=1), by_class(REAL, seed=2)


def network_of(model):
    """Its state with weights that NumPy drew; no optimiser moves it."""
    return create_state(variables_of(model), optax.identity(), with_ema=False)


def assert_real_images_match(match, model, atol):
    """Images are at no distance from themselves, whatever is drawn; others are."""
    network = network_of(model)
    for seed in range(3):
        value, grads = match(network, IMAGES, IMAGES, jax.random.key(seed))
        np.testing.assert_allclose(value, 0, atol=atol)
        np.testing.assert_allclose(grads, 0, atol=1e-6)
    assert match(network, SYNTHETIC, IMAGES, KEY)[0] > 1e-3
