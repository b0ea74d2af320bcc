"""Accuracy counts each image once, whatever the batch, and distrusts the attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks import ATTACKS
from jaxrobust.attacks.minimum_eps import minimum_eps_bisection
from jaxrobust.evaluators.passes import AccuracyPass, MinimumEpsPass
from jaxrobust.loader import Feed, Pool
from jaxrobust.state import bind
from jaxrobust.threat import make_threat
from tests.helpers import SHAPE, TinyNet, linear_logits, random_weight, variables_of

NET = TinyNet()
THREAT = make_threat("linf", 0.1)
KEY = jax.random.key(7)
INDEX = np.arange(40)
LOGITS_FN = bind(NET, variables_of(NET, 3), "running")


def make_pgd(threat):
    step_size = 0.3 * threat.eps
    return ATTACKS["pgd"](threat, losses.margin, step_size, 3, "uniform", 1, False)


def no_attack(threat):
    return ATTACKS["none"]()


@pytest.fixture(scope="module")
def feed(images, mesh):
    """The images on the device."""
    return Feed(Pool((images,)), mesh, 1.0)


def evaluate(
    mesh, feed, make_attack, batch_size, index=INDEX, logits_fn=LOGITS_FN, **options
):
    evaluation = AccuracyPass(make_attack, batch_size, mesh, **options)
    return evaluation(logits_fn, feed, index, KEY, THREAT)


@pytest.mark.parametrize("batch_size", (40, 16, 7, 64))
def test_padding_is_not_counted(mesh, feed, images, batch_size):
    image = images.image.astype(np.float32) / 255
    right = np.asarray(LOGITS_FN(image)).argmax(1) == images.label
    found = evaluate(mesh, feed, no_attack, batch_size)
    np.testing.assert_array_equal(found.flags, right)
    assert found.value == pytest.approx(right.mean())
    assert 0 < right.mean() < 1


def test_flags_do_not_depend_on_batch_order_or_company(mesh, feed):
    whole = evaluate(mesh, feed, make_pgd, 16)
    order = np.random.default_rng(0).permutation(40)
    shuffled = evaluate(mesh, feed, make_pgd, 16, order)
    np.testing.assert_array_equal(shuffled.flags, whole.flags[order])
    part = evaluate(mesh, feed, make_pgd, 5, order[:11])
    np.testing.assert_array_equal(part.flags, whole.flags[order[:11]])


def test_images_that_stay_on_the_host_give_the_same(mesh, feed, images):
    streaming = Feed(Pool((images,)), mesh, 0.0)
    ours, theirs = (evaluate(mesh, f, make_pgd, 16) for f in (streaming, feed))
    np.testing.assert_array_equal(ours.flags, theirs.flags)


def test_an_attack_lowers_accuracy_and_proves_its_distance(mesh, feed):
    clean, attacked = (evaluate(mesh, feed, a, 40) for a in (no_attack, make_pgd))
    assert attacked.value < clean.value - 0.1
    assert clean.distance == 0
    assert 0.09 < attacked.distance <= 0.1 + 1e-6
    # Hardly an image becomes right by being attacked.
    assert (attacked.flags <= clean.flags).mean() > 0.9


def test_a_plain_function_is_a_network_too(mesh, feed, images):
    logits_fn = linear_logits(random_weight(3))
    found = evaluate(mesh, feed, no_attack, 16, logits_fn=logits_fn)
    image = images.image.astype(np.float32) / 255
    right = np.asarray(logits_fn(image)).argmax(1) == images.label
    np.testing.assert_array_equal(found.flags, right)


def test_one_compilation_serves_all_checkpoints_batches_and_radii(mesh, feed):
    traces = []

    def counted(keys, logits_fn, image, target):
        traces.append(image.shape)
        return image

    evaluation = AccuracyPass(lambda threat: counted, 16, mesh)
    for seed in range(3):
        logits_fn = bind(NET, variables_of(NET, seed), "running")
        evaluation(logits_fn, feed, INDEX, KEY, THREAT)
        evaluation(logits_fn, feed, INDEX[:9], KEY, make_threat("linf", 0.01 * seed))
    assert traces == [(16, *SHAPE)]


def test_a_larger_ball_leaves_less(mesh, feed):
    evaluation = AccuracyPass(make_pgd, 16, mesh)
    values = [
        evaluation(LOGITS_FN, feed, INDEX, KEY, make_threat("linf", eps)).value
        for eps in (0.0, 0.02, 0.1)
    ]
    assert values[0] > values[1] > values[2]


def test_outside_of_the_ball_an_attack_counts_only_where_it_may(mesh, feed):
    def escape(threat):
        return lambda keys, logits_fn, image, target: 1.0 - image

    clean = evaluate(mesh, feed, no_attack, 16)
    counted = evaluate(mesh, feed, escape, 16)
    refused = evaluate(mesh, feed, escape, 16, count_outside=False)
    assert (counted.flags != clean.flags).any()
    np.testing.assert_array_equal(refused.flags, clean.flags)
    assert counted.distance == refused.distance > 0.5


def test_inside_of_the_ball_both_counts_agree(mesh, feed):
    counted, checked = (
        evaluate(mesh, feed, make_pgd, 16, count_outside=outside)
        for outside in (True, False)
    )
    np.testing.assert_array_equal(counted.flags, checked.flags)


def test_the_smallest_eps_of_every_image_is_bracketed(mesh, feed):
    search = lambda ball: minimum_eps_bisection(make_pgd, ball, 6)
    run = MinimumEpsPass(search, 16, mesh)
    eps, odd = run(LOGITS_FN, feed, INDEX, KEY, make_threat("linf", 1.0))
    assert eps.shape == odd.shape == (40,)
    wrong = ~evaluate(mesh, feed, no_attack, 16).flags
    np.testing.assert_array_equal(eps == 0, wrong)
    assert np.isfinite(eps).all()


def test_a_network_that_says_nan_is_wrong_everywhere(mesh, feed):
    broken = evaluate(mesh, feed, no_attack, 16, logits_fn=says_nan)
    assert broken.value == 0


def says_nan(x):
    return jnp.full((len(x), 3), jnp.nan)


def test_an_attack_that_leaves_the_numbers_is_seen(mesh, feed):
    # Only the middle batch of three is broken.
    def attack(keys, logits_fn, image, target):
        bad = jnp.any(jnp.all(abs(image - broken) < 1e-3, axis=(1, 2, 3)))
        return jnp.where(bad, jnp.nan, image)

    broken = jnp.asarray(feed.pool.gather([20]), jnp.float32) / 255
    found = evaluate(mesh, feed, lambda threat: attack, 16)
    assert np.isnan(found.distance)
    assert not found.flags[16:32].any()
