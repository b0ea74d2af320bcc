"""Distances between gradients: units by units, free of scale, differentiable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.distill.matching import DISTANCES, cosine, layerwise, squared

UNITS = 5 + 3


def gradient(seed):
    """Of a 3x3 convolution to 5 units and a linear layer to 3, with their biases."""
    draw = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    return {
        "conv": {"kernel": normal(3, 3, 2, 5), "bias": normal(5)},
        "linear": {"kernel": normal(7, 3), "bias": normal(3)},
    }


S, R = gradient(0), gradient(1)
EACH = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES.keys())


@EACH
def test_equal_gradients_are_at_distance_zero(distance):
    np.testing.assert_allclose(distance(S, S), 0, atol=1e-5)
    assert distance(S, R) > 0.1


def test_layerwise_sums_over_units_in_the_layout_of_pytorch():
    expected = 0.0
    for layer in ("conv", "linear"):
        s, r = (np.asarray(tree[layer]["kernel"], np.float64) for tree in (S, R))
        s, r = (np.moveaxis(x, -1, 0).reshape(x.shape[-1], -1) for x in (s, r))
        for a, b in zip(s, r):
            cos = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
            expected += 1 - cos
    np.testing.assert_allclose(layerwise(S, R), expected, rtol=1e-5)


def test_the_other_distances_see_one_vector():
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    s, r = flat(S).astype(np.float64), flat(R).astype(np.float64)
    cos = s @ r / (np.linalg.norm(s) * np.linalg.norm(r) + 1e-6)
    np.testing.assert_allclose(cosine(S, R), 1 - cos, rtol=1e-5)
    np.testing.assert_allclose(squared(S, R), np.sum((s - r) ** 2), rtol=1e-5)


@pytest.mark.parametrize("distance", (layerwise, cosine))
def test_free_of_scale(distance):
    longer = jax.tree.map(lambda x: 30.0 * x, S)
    np.testing.assert_allclose(distance(longer, R), distance(S, R), rtol=1e-5)


def test_layerwise_is_free_of_the_scale_of_each_unit_and_of_vectors():
    factor = jnp.linspace(0.5, 9.0, 5)[None, None, None, :]
    scaled = {**S, "conv": {"kernel": S["conv"]["kernel"] * factor, "bias": -9.0}}
    scaled["conv"]["bias"] = jnp.full(5, -9.0)
    np.testing.assert_allclose(layerwise(scaled, R), layerwise(S, R), rtol=1e-5)
    one_input = {**S, "linear": {**S["linear"]}}
    one_input["linear"]["kernel"] = S["linear"]["kernel"].at[0].multiply(9.0)
    assert abs(layerwise(one_input, R) - layerwise(S, R)) > 0.01


def test_bounds_of_layerwise():
    opposite = jax.tree.map(jnp.negative, S)
    np.testing.assert_allclose(layerwise(opposite, S), 2 * UNITS, rtol=1e-5)
    nothing = jax.tree.map(jnp.zeros_like, S)
    np.testing.assert_allclose(layerwise(nothing, S), UNITS, rtol=1e-6)
    for seed in range(2, 12):
        assert 0 <= layerwise(gradient(seed), R) <= 2 * UNITS


@EACH
def test_a_dead_unit_gives_no_nan(distance):
    dead = {**S, "conv": {**S["conv"]}}
    dead["conv"]["kernel"] = S["conv"]["kernel"].at[..., 0].set(0.0)
    nothing = jax.tree.map(jnp.zeros_like, S)
    for start in (dead, nothing):
        for slope in jax.tree.leaves(jax.grad(distance)(start, R)):
            assert np.isfinite(slope).all()
