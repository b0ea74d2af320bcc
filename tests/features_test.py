"""Last-layer gradients as factors against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import features, losses
from jaxrobust.features import Factors
from jaxrobust.state import bind_features
from tests.helpers import CLASSES, TinyNet, random_images, variables_of

BETA = 6.0
COUNT = 12
MODEL = TinyNet(norm=True)
VARIABLES = variables_of(MODEL)
IMAGE = jnp.asarray(random_images(COUNT))
X_ADV = jnp.asarray(random_images(COUNT, seed=1))
LABEL = jnp.arange(COUNT) % CLASSES
SOFT = jax.nn.softmax(jnp.asarray(random_images(COUNT, 2, (CLASSES,))) * 3)
DRAW = np.random.default_rng(0)


def random_factors(count, branches=1, classes=4, depth=5):
    draw = lambda width: jnp.asarray(
        DRAW.normal(size=(count, branches, width)), jnp.float32
    )
    return Factors(draw(classes), draw(depth))


def explicit(factors):
    """f64[N,K(D+1)], what the package never holds."""
    delta, e = (np.asarray(x, np.float64) for x in factors)
    e = np.concatenate([e, np.ones((*e.shape[:2], 1))], axis=2)
    return np.einsum("nak,nad->nkd", delta, e).reshape(len(delta), -1)


def by_autodiff(loss_of):
    """f32[B,K(D+1)]: d loss_i / d (W, b) of the last layer, one image at a time;
    `loss_of(logits_fn, i)`."""

    def one(i, last):
        params = VARIABLES["params"] | {"Dense_1": last}
        variables = VARIABLES | {"params": params}
        return loss_of(lambda x: MODEL.apply(variables, x, train=False), i)

    found = []
    for i in range(COUNT):
        slope = jax.grad(one, argnums=1)(i, VARIABLES["params"]["Dense_1"])
        matrix = np.concatenate([slope["kernel"].T, slope["bias"][:, None]], axis=1)
        found.append(matrix.ravel())
    return np.stack(found)


@pytest.fixture(scope="module")
def features_fn():
    return bind_features(MODEL, VARIABLES)


@pytest.mark.parametrize("target", (LABEL, SOFT), ids=("labels", "distributions"))
def test_cross_entropy_factors_are_the_gradient(features_fn, target):
    found = features.cross_entropy_factors(features_fn, X_ADV, target)
    expected = by_autodiff(
        lambda f, i: losses.cross_entropy(f(X_ADV[i][None]), target[i][None])[0]
    )
    assert found.delta.shape[1] == 1
    np.testing.assert_allclose(explicit(found), expected, atol=1e-5)


def test_trades_factors_are_the_gradient_through_both_branches(features_fn):
    found = features.trades_factors(features_fn, IMAGE, X_ADV, LABEL, BETA)

    def loss(f, i):
        clean, adv = f(IMAGE[i][None]), f(X_ADV[i][None])
        natural = losses.cross_entropy(clean, LABEL[i][None])
        return (natural + BETA * losses.kl_between(clean, adv))[0]

    assert found.delta.shape[1] == 2
    np.testing.assert_allclose(explicit(found), by_autodiff(loss), atol=1e-5)


def test_trades_at_the_clean_image_is_cross_entropy(features_fn):
    found = features.trades_factors(features_fn, IMAGE, IMAGE, LABEL, BETA)
    plain = features.cross_entropy_factors(features_fn, IMAGE, LABEL)
    np.testing.assert_allclose(explicit(found), explicit(plain), atol=1e-5)


def test_nothing_is_differentiated_through(features_fn):
    def norm(x):
        found = features.trades_factors(features_fn, x, X_ADV, LABEL, BETA)
        return sum(jnp.sum(jnp.square(part)) for part in found)

    np.testing.assert_array_equal(jax.grad(norm)(IMAGE), 0.0)


@pytest.mark.parametrize("branches", (1, 2, 40))
def test_gram_products_are_inner_products(branches):
    a, b = random_factors(7, branches), random_factors(9, branches)
    expected = explicit(a) @ explicit(b).T
    scale = np.abs(expected).max()
    for product in (features.gram, features._gram_by_pairs, features._gram_by_rows):
        np.testing.assert_allclose(product(a, b), expected, atol=1e-5 * scale)
    norms = np.sum(explicit(a) ** 2, axis=1)
    np.testing.assert_allclose(features.squared_norms(a), norms, rtol=1e-4)


@pytest.mark.parametrize("branches", (1, 2))
def test_sums_and_products_with_sums(branches):
    factors = random_factors(11, branches)
    weight = jnp.asarray(DRAW.normal(size=11), jnp.float32)
    matrix = features.total(weight, factors)
    assert matrix.shape == (4, 6)
    expected = np.asarray(weight) @ explicit(factors)
    np.testing.assert_allclose(matrix.ravel(), expected, atol=1e-4)
    products = explicit(factors) @ np.asarray(matrix, np.float64).ravel()
    np.testing.assert_allclose(features.inner(factors, matrix), products, rtol=1e-3)


def test_a_minibatch_is_the_mean_of_its_members():
    factors = random_factors(14, branches=2)
    means = explicit(factors)[:12].reshape(3, 4, -1).mean(axis=1)
    found = features.minibatches(factors, 4)
    np.testing.assert_allclose(explicit(found), means, atol=1e-6)


def test_the_own_row_is_that_of_the_class():
    factors = random_factors(8, branches=2)
    label = jnp.arange(8) % 4
    rows = explicit(factors).reshape(8, 4, -1)[np.arange(8), label]
    np.testing.assert_allclose(explicit(features.own_row(factors, label)), rows)


def test_the_relative_error_is_that_of_the_explicit_sums():
    factors = random_factors(10)
    index, weight = jnp.array([1, 4, 8]), jnp.array([2.0, 0.5, 3.0])
    whole = explicit(factors).sum(axis=0)
    part = np.asarray(weight) @ explicit(factors)[np.asarray(index)]
    expected = np.linalg.norm(part - whole) / np.linalg.norm(whole)
    found = features.relative_error(factors, index, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    all_ = features.relative_error(factors, jnp.arange(10), jnp.ones(10))
    np.testing.assert_allclose(all_, 0.0, atol=1e-6)


def test_a_gradient_that_vanishes_has_no_error():
    none = Factors(jnp.zeros((4, 1, 3)), jnp.ones((4, 1, 2)))
    assert features.relative_error(none, jnp.arange(2), jnp.ones(2)) == 0.0
