"""Normalisation equals flax's, with the same parameters, in value and in gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.errors import UserError
from jaxrobust.models.norms import GroupNorm

X = jax.random.normal(jax.random.key(0), (5, 6, 4, 12)) * 2 + 0.7
EPSILON = 1e-5


def theirs(groups: int, dtype=jnp.float32) -> nn.Module:
    if groups == 0:
        return nn.InstanceNorm(epsilon=EPSILON, dtype=dtype)
    return nn.GroupNorm(groups, epsilon=EPSILON, dtype=dtype)


def parameters(seed: int) -> dict:
    scale, bias = jax.random.normal(jax.random.key(seed), (2, X.shape[-1]))
    return {"params": {"scale": scale, "bias": bias}}


@pytest.mark.parametrize("groups", (0, 1, 3, 12))
def test_value_and_gradients_are_those_of_flax(groups):
    def value(module):
        def of(variables, x):
            out = module.apply(variables, x)
            return jnp.sum(jnp.sin(out)), out

        return jax.value_and_grad(of, argnums=(0, 1), has_aux=True)

    found = value(GroupNorm(groups, EPSILON, jnp.float32))(parameters(1), X)
    expected = value(theirs(groups))(parameters(1), X)
    for ours, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(ours, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("groups", (0, 3))
def test_gradients_of_gradients_are_those_of_flax(groups):
    def bend(module):
        def length(variables, x):
            value = lambda x: jnp.sum(jnp.sin(module.apply(variables, x)))
            return jnp.sum(jax.grad(value)(x) ** 2)

        return jax.grad(length, argnums=(0, 1))(parameters(3), X)

    found, expected = (
        bend(GroupNorm(groups, EPSILON, jnp.float32)),
        bend(theirs(groups)),
    )
    for ours, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("groups", (0, 4))
def test_parameters_have_the_names_and_shapes_of_flax(groups):
    init = lambda module: module.init(jax.random.key(0), X)
    ours, other = init(GroupNorm(groups, EPSILON, jnp.float32)), init(theirs(groups))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, other)
    jax.tree.map(np.testing.assert_array_equal, ours, other)


def test_each_image_and_group_has_mean_bias_and_variance_scale():
    variables = {"params": {"scale": jnp.full(12, 2.0), "bias": jnp.full(12, -1.0)}}
    out = GroupNorm(3, EPSILON, jnp.float32).apply(variables, X)
    groups = np.asarray(out).reshape(5, 24, 3, 4)
    np.testing.assert_allclose(groups.mean((1, 3)), -1.0, atol=1e-5)
    np.testing.assert_allclose(groups.std((1, 3)), 2.0, rtol=1e-4)


def test_a_constant_image_is_finite_and_bfloat16_keeps_float32_statistics():
    flat = jnp.full((2, 3, 3, 12), 7.3)
    norm = GroupNorm(4, EPSILON, jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(norm.apply(parameters(2), x) ** 2))(flat)
    assert jnp.isfinite(gradient).all()
    half = GroupNorm(4, EPSILON, jnp.bfloat16).apply(parameters(2), X)
    assert half.dtype == jnp.bfloat16
    whole = norm.apply(parameters(2), X)
    np.testing.assert_allclose(half.astype(jnp.float32), whole, rtol=0.01, atol=0.01)


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(UserError, match="12 channels"):
        GroupNorm(5, EPSILON, jnp.float32).init(jax.random.key(0), X)
