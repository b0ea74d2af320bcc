"""Matching of class means has a closed form where the embedding is linear."""

import jax
import numpy as np
from flax import linen as nn

from jaxrobust.distill.dm import feature_match
from jaxrobust.distill.dsa import PUBLISHED, make_dsa, unchanged
from tests.distill.toy import (
    IMAGES,
    IPC,
    KEY,
    SYNTHETIC,
    assert_real_images_match,
    network_of,
)
from tests.helpers import CLASSES, SHAPE, TinyNet


class Linear(nn.Module):
    """A linear embedding under a linear head."""

    @nn.compact
    def __call__(self, image, train):
        """f32[B,H,W,C] -> f32[B,3]."""
        x = nn.Dense(7, name="embed")(image.reshape(len(image), -1))
        if not self.is_initializing():
            self.sow("intermediates", "embedding", x)
        return nn.Dense(CLASSES)(x)


def test_linear_features_have_a_closed_form():
    network = network_of(Linear())
    weight = np.asarray(network.params["embed"]["kernel"], np.float64)
    value, grads = jax.jit(feature_match(Linear(), unchanged))(
        network, SYNTHETIC, IMAGES, KEY
    )
    gap = np.asarray(SYNTHETIC.mean(axis=1) - IMAGES.mean(axis=1), np.float64)
    gap = gap.reshape(CLASSES, -1) @ weight
    np.testing.assert_allclose(value, np.sum(gap**2), rtol=1e-4)
    slope = (2 / IPC * gap @ weight.T).reshape(CLASSES, 1, *SHAPE)
    np.testing.assert_allclose(
        grads, np.repeat(slope, IPC, axis=1), rtol=1e-3, atol=1e-5
    )


def test_the_real_images_themselves_match_under_any_augmentation():
    model = TinyNet(norm=True)
    augment = make_dsa(("rotate",), PUBLISHED, (0.5,), (0.2,), True)
    match = jax.jit(feature_match(model, augment))
    assert_real_images_match(match, model, atol=1e-6)


def test_the_augmentation_is_applied():
    network, double = network_of(Linear()), lambda key, image: 2 * image
    plain, doubled = (
        feature_match(Linear(), augment)(network, SYNTHETIC, IMAGES, KEY)[0]
        for augment in (unchanged, double)
    )
    np.testing.assert_allclose(doubled, 4 * plain, rtol=1e-4)
