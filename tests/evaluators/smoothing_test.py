"""CERTIFY and PREDICT on linear classifiers, whose smoothed radius is a closed form.

With two classes g = sign(w x + b) under noise is g itself, and its radius exactly the
distance to the hyperplane |w x + b| / ||w||.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust import sharding
from jaxrobust.attacks.pgd import pgd
from jaxrobust.errors import UserError
from jaxrobust.evaluators.smoothing import certify, count_classes, smoothed_predict
from jaxrobust.losses import cross_entropy
from jaxrobust.threat import ThreatModel
from tests.helpers import (
    SHAPE,
    image_keys,
    linear_logits,
    on_devices,
    random_images,
    random_weight,
)

SIGMA, N0, N, ALPHA = 0.5, 50, 2000, 0.001
COUNT = 8
IMAGE = random_images(COUNT)
KEYS = image_keys(np.arange(COUNT))
WEIGHT = random_weight(seed=3, classes=2)
NORMAL = (WEIGHT[:, 1] - WEIGHT[:, 0]).astype(np.float64)
SCORE = IMAGE.reshape(COUNT, -1).astype(np.float64) @ NORMAL
# The hyperplane goes through the middle of the images: some are near, some far.
BIAS = -float(np.median(SCORE))
DISTANCE = np.abs(SCORE + BIAS) / np.linalg.norm(NORMAL)
BINARY = linear_logits(WEIGHT, jnp.array([0.0, BIAS], jnp.float32)[None])
CLASS = (SCORE + BIAS > 0).astype(int)
THREE = linear_logits(random_weight(seed=5))


@pytest.fixture(scope="module")
def one():
    return sharding.make_mesh(1)


def run(logits_fn, mesh, image=IMAGE, keys=KEYS, sigma=SIGMA, noise_batch=400, n=N):
    return certify(logits_fn, image, keys, sigma, N0, n, ALPHA, noise_batch, mesh)


def counts(logits_fn, mesh, image=IMAGE, keys=KEYS, noise_batch=400, n=300):
    return count_classes(logits_fn, image, keys, SIGMA, N0, n, noise_batch, mesh)


def test_a_radius_is_below_the_exact_one_and_close_to_it(one):
    found = run(BINARY, one, n=20_000)
    sure = found.predict >= 0
    assert sure.sum() >= COUNT - 2
    np.testing.assert_array_equal(found.predict[sure], CLASS[sure])
    assert (found.radius <= DISTANCE).all()
    reach = SIGMA * stats.norm.ppf(ALPHA ** (1 / 20_000))
    near = sure & (DISTANCE < 0.8 * reach)
    assert near.sum() >= 3
    assert (DISTANCE - found.radius)[near].max() < 0.04


def test_counts_are_those_of_numpy_on_the_same_noise(one):
    draws = 60
    first, second = count_classes(BINARY, IMAGE, KEYS, SIGMA, 20, 40, 100, one)
    for i in range(COUNT):
        keys = [jax.random.fold_in(KEYS[i], d) for d in range(draws)]
        noise = np.stack([np.asarray(jax.random.normal(k, SHAPE)) for k in keys])
        score = (IMAGE[i] + SIGMA * noise).reshape(draws, -1) @ NORMAL + BIAS
        named = (score > 0).astype(int)
        for part, ours in ((named[:20], first[i]), (named[20:], second[i])):
            assert np.bincount(part, minlength=2).tolist() == ours.tolist()


def test_probabilities_are_those_of_the_normal_law(one):
    _, found = count_classes(BINARY, IMAGE, KEYS, SIGMA, 0, 20_000, 400, one)
    expected = stats.norm.cdf((SCORE + BIAS) / (SIGMA * np.linalg.norm(NORMAL)))
    np.testing.assert_allclose(found[:, 1] / 20_000, expected, atol=0.018)


def test_the_same_class_fills_its_radius_in_three_classes(one):
    # P(g = c) >= p needs c to beat both others: the exact radius by the Gaussian
    # isoperimetric bound sigma Phi^-1(p) is at most the distance to the nearest rival.
    found = run(THREE, one)
    flat = IMAGE.reshape(COUNT, -1)
    weight = random_weight(seed=5).astype(np.float64)
    logits = flat @ weight
    top = logits.argmax(1)
    sure = found.predict >= 0
    assert sure.any()
    for i in np.flatnonzero(sure):
        assert found.predict[i] == top[i]
        rivals = [c for c in range(3) if c != top[i]]
        gaps = [
            (logits[i, top[i]] - logits[i, c])
            / np.linalg.norm(weight[:, top[i]] - weight[:, c])
            for c in rivals
        ]
        assert found.radius[i] <= min(gaps)


def test_no_attack_inside_of_the_radius_changes_the_answer(one):
    found = run(BINARY, one)
    sure = found.predict >= 0
    # The smoothed linear classifier is the linear classifier: PGD attacks it exactly.
    for share, broken in ((0.999, 0), (1.4, 1)):
        radius = np.where(sure, share * found.radius, 0.0).astype(np.float32)
        eps = jnp.asarray(radius)[:, None, None, None]
        threat = ThreatModel(eps, "l2", bounds=(-9.0, 9.0))
        attack = pgd(threat, cross_entropy, eps / 4, 20, "none", 1, True)
        x_adv = attack(KEYS, BINARY, jnp.asarray(IMAGE), jnp.asarray(CLASS))
        changed = np.asarray(BINARY(x_adv)).argmax(1) != CLASS
        assert (changed[sure].sum() > 0) == bool(broken)


@pytest.mark.parametrize("noise_batch", (8, 40, 100, 10_000))
def test_counts_do_not_depend_on_the_batch_size(noise_batch, one):
    for ours, theirs in zip(counts(THREE, one), counts(THREE, one, noise_batch=9)):
        assert ours.sum() in (COUNT * N0, COUNT * 300)
        np.testing.assert_array_equal(ours, theirs)
    again = counts(THREE, one, noise_batch=noise_batch)
    np.testing.assert_array_equal(again, counts(THREE, one))


def test_counts_depend_neither_on_the_order_nor_on_neighbours(one):
    whole = counts(THREE, one)
    order = np.random.default_rng(2).permutation(COUNT)
    for part in (order, order[:3]):
        found = counts(THREE, one, IMAGE[part], KEYS[part])
        for ours, theirs in zip(found, whole):
            np.testing.assert_array_equal(ours, theirs[part])


def counted_on_devices():
    mesh = sharding.make_mesh(0)
    found = counts(THREE, mesh, IMAGE[:3], KEYS[:3], noise_batch=50)
    return [part.tolist() for part in found]


def test_counts_do_not_depend_on_the_number_of_devices(one):
    ours = [part.tolist() for part in counts(THREE, one, IMAGE[:3], KEYS[:3])]
    assert on_devices(4, counted_on_devices) == ours


def test_fewer_draws_are_the_first_ones_of_many(one):
    few, many = (counts(THREE, one, n=n)[1] for n in (100, 101))
    assert ((many - few).sum(1) == 1).all() and (many >= few).all()


def test_an_image_on_the_boundary_is_an_abstention(one):
    step = (SCORE + BIAS)[:, None] * NORMAL / (NORMAL @ NORMAL)
    image = (IMAGE.reshape(COUNT, -1) - step).reshape(IMAGE.shape).astype(np.float32)
    found = run(BINARY, one, image)
    assert (found.predict == -1).sum() >= COUNT - 1
    assert (found.radius[found.predict == -1] == 0).all()
    assert (smoothed_predict(BINARY, image, KEYS, SIGMA, N, ALPHA, 400, one) < 0).any()


def test_predict_names_the_class_of_the_linear_classifier(one):
    found = smoothed_predict(BINARY, IMAGE, KEYS, SIGMA, N, ALPHA, 400, one)
    assert (found >= 0).sum() >= COUNT - 2
    np.testing.assert_array_equal(found[found >= 0], CLASS[found >= 0])


def test_a_network_of_nans_is_certain_of_nothing(one):
    found = run(lambda x: THREE(x) * jnp.nan, one)
    assert (found.predict == -1).all() and (found.radius == 0).all()
    assert (found.nA == 0).all() and (found.vote == -1).all()


def test_too_few_draws_are_refused(one):
    with pytest.raises(UserError, match="at least n = 10"):
        certify(THREE, IMAGE, KEYS, SIGMA, N0, 9, ALPHA, 100, one)
    with pytest.raises(UserError, match="at least n = 11"):
        smoothed_predict(THREE, IMAGE, KEYS, SIGMA, 10, ALPHA, 100, one)
    with pytest.raises(UserError, match="n0 = 0"):
        certify(THREE, IMAGE, KEYS, SIGMA, 0, 100, ALPHA, 100, one)


def test_one_compilation_serves_every_sigma_and_number_of_draws(one):
    traces = []

    def network(x):
        traces.append(x.shape)
        return THREE(x)

    partial = jax.tree_util.Partial(network)
    run(partial, one)
    before = len(traces)
    run(partial, one, sigma=0.1, n=500)
    assert len(traces) == before
