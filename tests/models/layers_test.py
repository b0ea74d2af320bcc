"""Pooling and normalisation against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models.layers import average_pool, floats, normalise


@pytest.mark.parametrize(
    "size,shape", ((2, (2, 6, 8, 3)), (2, (2, 7, 5, 3)), (3, (1, 9, 7, 2)))
)
def test_average_pool_is_the_mean_of_blocks(size, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pooled = average_pool(jnp.asarray(x), size)
    assert pooled.shape == (shape[0], shape[1] // size, shape[2] // size, shape[3])
    for i in range(pooled.shape[1]):
        for j in range(pooled.shape[2]):
            block = x[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
            np.testing.assert_allclose(pooled[:, i, j], block.mean((1, 2)), atol=1e-6)


def test_normalise_by_channel():
    image = jnp.full((1, 2, 2, 2), 0.5)
    out = normalise(image, (0.5, 0.1), (0.25, 0.2), "float32")
    np.testing.assert_allclose(out[0, 0, 0], (0.0, 2.0), atol=1e-6)
    assert normalise(image, (0.5, 0.1), (0.25, 0.2), "bfloat16").dtype == jnp.bfloat16


def test_normalise_wants_one_number_for_each_channel():
    with pytest.raises(UserError, match="3 channels"):
        normalise(jnp.zeros((1, 2, 2, 3)), (0.5,), (0.25,), "float32")


def test_statistics_become_hashable():
    assert floats(np.array([0.5, 1])) == (0.5, 1.0)
