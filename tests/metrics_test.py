"""The only averages of the house."""

import statistics

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust import metrics

VALUES = jnp.array([1.0, 2.0, 4.0, 8.0])


def test_importance_mean_over_batches_is_the_pools_weighted_mean():
    draw = np.random.default_rng(3)
    values, weight = draw.normal(size=60), draw.uniform(0, 4, 60)
    weight /= weight.mean()
    expected = np.average(values, weights=weight)
    parts = [jnp.asarray(x).reshape(6, 10) for x in (values, weight)]
    means = {
        name: np.mean([float(mean(v, w)) for v, w in zip(*parts)])
        for name, mean in metrics.MEANS.items()
    }
    assert means["global"] == pytest.approx(expected, abs=1e-6)
    assert abs(means["batch"] - expected) > 1e-3


def test_weighted_mean_is_numpys():
    weight = np.array([0.5, 0.0, 2.0, 1.0], np.float32)
    found = metrics.weighted_mean(VALUES, weight)
    np.testing.assert_allclose(found, np.average(VALUES, weights=weight), rtol=1e-6)


def test_the_scale_of_the_weights_does_not_matter():
    ones = metrics.weighted_mean(VALUES, jnp.ones(4))
    tens = metrics.weighted_mean(VALUES, 10 * jnp.ones(4))
    assert float(ones) == float(tens) == 3.75


def test_no_weight_at_all_gives_zero():
    assert float(metrics.weighted_mean(VALUES, jnp.zeros(4))) == 0


def test_a_nan_is_never_averaged_away():
    for weight in (1.0, 0.0):
        found = metrics.weighted_mean(
            VALUES.at[1].set(jnp.nan), jnp.ones(4).at[1].set(weight)
        )
        assert np.isnan(found)


def test_values_and_weights_of_other_shapes_do_not_broadcast():
    with pytest.raises(ValueError, match="rank"):
        metrics.weighted_mean(VALUES, jnp.ones((4, 1)))


def test_correct_is_the_largest_logit():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    found = metrics.correct(logits, jnp.array([1, 1]))
    np.testing.assert_array_equal(found, [1.0, 0.0])
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("label", (0, 1, 2))
def test_a_network_that_says_nan_is_never_right(label):
    logits = jnp.array([[jnp.nan] * 3, [0.0, jnp.nan, 1.0]])
    found = metrics.correct(logits, jnp.full(2, label))
    np.testing.assert_array_equal(found, [0.0, 0.0])


def test_mean_and_std_over_seeds():
    values = [0.1, 0.4, 0.7, 0.2]
    mean, std = metrics.mean_and_std(values)
    assert mean == pytest.approx(statistics.mean(values))
    assert std == pytest.approx(statistics.stdev(values))
    assert metrics.mean_and_std([0.3]) == (0.3, 0.0)


@pytest.mark.parametrize(
    "values", ([0.5, 0.7], [0.61, 0.64, 0.58], [1.0, 2.0, 4.0, 8.0])
)
def test_half_interval_is_scipys(values):
    low, high = stats.t.interval(
        0.95, len(values) - 1, np.mean(values), stats.sem(values)
    )
    assert metrics.half_interval(values) == pytest.approx((high - low) / 2)
