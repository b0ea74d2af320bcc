"""Objectives against their papers' equations, in NumPy and double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxrobust import losses
from jaxrobust.objectives.mart import mart
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.stability import stability
from jaxrobust.objectives.standard import standard
from jaxrobust.objectives.trades import trades
from jaxrobust.state import forward_fn
from tests.helpers import (
    TinyNet,
    assert_trees_close,
    linear_logits,
    make_batch,
    random_weight,
    variables_of,
)

BATCH = make_batch(8)
ADV = jnp.clip(BATCH.image + 0.1, 0, 1)
SOFT = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(3), 8).astype(np.float32))
WEIGHT = random_weight()
ROWS = np.arange(8)
LABEL = np.asarray(BATCH.label)


def forward(image, stats):
    return linear_logits(WEIGHT)(image), stats


def numpy_logits(image):
    return np.asarray(image, np.float64).reshape(8, -1) @ WEIGHT.astype(np.float64)


CLEAN_LOG, ADV_LOG = (log_softmax(numpy_logits(x), 1) for x in (BATCH.image, ADV))
KL = (np.exp(CLEAN_LOG) * (CLEAN_LOG - ADV_LOG)).sum(1)


def test_standard_is_cross_entropy_of_clean_images():
    found = standard().outer(forward, BATCH, ADV).loss
    np.testing.assert_allclose(found, -CLEAN_LOG[ROWS, LABEL], rtol=1e-5)


def test_pgd_at_is_cross_entropy_of_attacked_images():
    found = pgd_at("adv").outer(forward, BATCH, ADV).loss
    np.testing.assert_allclose(found, -ADV_LOG[ROWS, LABEL], rtol=1e-5)
    soft = BATCH._replace(soft_label=SOFT)
    found = pgd_at("adv").outer(forward, soft, ADV).loss
    np.testing.assert_allclose(found, -(SOFT * ADV_LOG).sum(1), rtol=1e-5)


@pytest.mark.parametrize("beta", (0.0, 1.0, 6.0))
def test_trades_equation_5(beta):
    found = trades(beta, "adv").outer(forward, BATCH, ADV).loss
    expected = -CLEAN_LOG[ROWS, LABEL] + beta * KL
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_trades_with_beta_zero_is_standard_training():
    ours = trades(0.0, "clean").outer(forward, BATCH, ADV)
    theirs = standard().outer(forward, BATCH, ADV)
    np.testing.assert_array_equal(ours.loss, theirs.loss)


def test_without_an_attack_trades_is_standard_training():
    ours = trades(6.0, "adv").outer(forward, BATCH, BATCH.image).loss
    theirs = standard().outer(forward, BATCH, BATCH.image).loss
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("beta", (0.0, 5.0))
def test_mart_equation_11(beta):
    p = np.exp(ADV_LOG)
    rivals = p.copy()
    rivals[ROWS, LABEL] = 0
    boosted = -np.log(p[ROWS, LABEL]) - np.log(1 - rivals.max(1))
    doubt = 1 - np.exp(CLEAN_LOG)[ROWS, LABEL]
    found = mart(beta, "adv").outer(forward, BATCH, ADV).loss
    np.testing.assert_allclose(found, boosted + beta * KL * doubt, rtol=1e-4)


def test_trades_attacks_the_clean_prediction_and_not_the_label():
    objective = trades(6.0, "adv")
    assert objective.inner is losses.kl_divergence
    logits_fn = linear_logits(WEIGHT)
    target = objective.target(logits_fn, BATCH)
    np.testing.assert_allclose(target, softmax(numpy_logits(BATCH.image), 1), rtol=1e-5)
    slope = jax.grad(
        lambda w: objective.target(lambda x: logits_fn(x) * w, BATCH)[0, 0]
    )(1.0)
    assert float(slope) == 0


@pytest.mark.parametrize("objective", (mart(5.0, "adv"), pgd_at("adv")))
def test_the_others_attack_the_label_hard_or_soft(objective):
    assert objective.inner is losses.cross_entropy
    assert objective.target(None, BATCH) is BATCH.label
    assert objective.target(None, BATCH._replace(soft_label=SOFT)) is SOFT


def test_standard_training_attacks_nothing():
    assert standard().inner is None


@pytest.mark.parametrize("name", ("trades", "stability"))
def test_gradients_flow_through_both_sides_of_the_divergence(name):
    objective = {"trades": trades(6.0, "adv"), "stability": stability(6.0, "both")}

    def loss(weight, adv_weight):
        def two_sided(image, stats):
            used = weight if image is BATCH.image else adv_weight
            return linear_logits(used)(image), stats

        return objective[name].outer(two_sided, BATCH, ADV).loss.sum()

    for slope in jax.grad(loss, (0, 1))(jnp.asarray(WEIGHT), jnp.asarray(WEIGHT)):
        assert float(jnp.abs(slope).max()) > 1e-3


@pytest.mark.parametrize("rule", ("adv", "clean", "both"))
@pytest.mark.parametrize("make", (pgd_at, lambda rule: trades(6.0, rule)))
def test_bn_update_leaves_the_statistics_of_the_passes_it_names(make, rule):
    net = TinyNet(norm=True)
    variables = variables_of(net)
    dense = variables["params"]["Dense_0"]
    found = make(rule).outer(
        forward_fn(net, variables["params"], variables["batch_stats"]), BATCH, ADV
    )
    mean = np.asarray(variables["batch_stats"]["BatchNorm_0"]["mean"])
    var = np.asarray(variables["batch_stats"]["BatchNorm_0"]["var"])
    for image in {"adv": (ADV,), "clean": (BATCH.image,)}.get(rule, (BATCH.image, ADV)):
        seen = np.reshape(image, (8, -1)) @ dense["kernel"] + dense["bias"][None]
        mean = 0.9 * mean + 0.1 * np.mean(seen, 0)
        var = 0.9 * var + 0.1 * np.var(seen, 0)
    expected = {"BatchNorm_0": {"mean": mean, "var": var}}
    assert_trees_close(found.batch_stats, expected, rtol=1e-4)
