"""Every way to mislead an attack trips its own check, a sound network none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.evaluators import before, outputs
from jaxrobust.threat import make_threat
from tests.evaluators import networks
from tests.helpers import linear_logits

THREAT = make_threat("linf", 8 / 255)
COMPONENTS = ("apgd-ce", "square")

PROBABILITIES = "logits are not probabilities"
STEADY = "the network is deterministic"
BATCH = "rows do not depend on the batch"
GRADIENTS = "gradients reach the image"
SATURATED = "cross-entropy is not saturated"
CLASSES = "enough classes for AutoAttack"
SQUARE = "square images"
ACCURACY = "clean accuracy is plausible"


def checks(logits_fn, image, label):
    found = before.before_attack(
        logits_fn, image, label, THREAT, jax.random.key(0), COMPONENTS
    )
    return {check.name: check for check in found}


def failed(found):
    return {name for name, check in found.items() if not check.ok}


def test_a_sound_network_trips_nothing():
    found = checks(networks.healthy(), *networks.examples())
    assert failed(found) == set()
    assert len(found) == 9
    assert all(check.value and check.note for check in found.values())


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (networks.rounding, GRADIENTS),
        (networks.straight_through_rounding, GRADIENTS),
        (networks.stop_gradient_rounding, GRADIENTS),
        (networks.probabilities, PROBABILITIES),
        (networks.log_probabilities, PROBABILITIES),
        (networks.noisy, STEADY),
        (networks.frozen_noise, STEADY),
        (networks.batch_statistics, BATCH),
        (networks.large_logits, SATURATED),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_network_trips_exactly_its_check(broken, expected):
    assert failed(checks(broken(), *networks.examples())) == {expected}


@pytest.mark.parametrize("classes", (2, 3))
def test_few_classes_trip_exactly_their_check(classes):
    found = checks(networks.healthy(classes), *networks.examples(classes))
    assert failed(found) == {CLASSES}
    assert "apgd-ce, square" in found[CLASSES].value


def test_other_than_square_images_trip_exactly_their_check():
    found = checks(networks.healthy(wide=True), *networks.examples(wide=True))
    assert failed(found) == {SQUARE}
    assert found[SQUARE].value == "4x6"


def test_wrong_normalisation_shows_in_clean_accuracy():
    image, label = networks.examples()
    network = networks.healthy()
    assert failed(checks(network, image, (label + 1) % 4)) == {ACCURACY}
    assert failed(checks(lambda x: network(1 - x), image, label)) == {ACCURACY}


def test_two_images_are_too_few_for_accuracy():
    image, label = networks.examples()
    found = checks(networks.healthy(), image[:1], (label[:1] + 1) % 4)
    assert failed(found) == set()
    assert "too few" in found[ACCURACY].value


def test_places_of_faults_are_named():
    found = checks(networks.rounding(), *networks.examples())
    assert "round at networks.py:" in found[GRADIENTS].value
    assert "100.0% zero margin gradients" in found[GRADIENTS].value
    found = checks(networks.noisy(), *networks.examples())
    assert "pure_callback at networks.py:" in found[STEADY].value
    assert "not measurable" in found[BATCH].value


def test_dead_gradients_are_seen_where_no_operation_blocks_them():
    image, label = networks.examples()
    network = networks.healthy()
    dead = lambda x: network(x) * 0 + jnp.eye(4)[0][None]
    found = before.gradients_reach_the_image(dead, image, label, THREAT, KEY)
    assert not found.ok and "100.0% zero margin gradients" in found.value
    nan = lambda x: network(x + 0 * jnp.sqrt(jnp.abs(x - x)))
    found = before.gradients_reach_the_image(nan, image, label, THREAT, KEY)
    assert not found.ok and "100.0% NaN gradients" in found.value


KEY = jax.random.key(0)


def test_one_image_in_twenty_may_be_without_gradient():
    weight = networks.trained()[0][:, :4]
    image, label = networks.examples(count=40)
    for dead, ok in ((2, True), (3, False)):
        alive = jnp.ones((40, 1)).at[:dead].set(0.0)
        network = lambda x, a=alive: linear_logits(weight)(x) * a
        found = before.gradients_reach_the_image(network, image, label, THREAT, KEY)
        assert found.ok is ok, found


def always(value):
    return lambda x: jnp.full((len(x), 4), value)


@pytest.mark.parametrize(
    ("network", "seen"),
    [
        (lambda x: np.asarray(x).reshape(len(x), -1)[:, :4], "Tracer"),
        (always(jnp.nan), "100.0% of rows NaN"),
        (always(jnp.inf), "100.0% of rows NaN"),
        (lambda x: jnp.zeros((len(x), 1)), "shape (32, 1)"),
        (lambda x: x, "shape (32, 4, 4, 1)"),
        (lambda x: jnp.zeros((7, 4)), "shape (7, 4)"),
    ],
)
def test_what_is_no_network_is_one_failed_check(network, seen):
    (found,) = checks(network, *networks.examples()).values()
    assert not found.ok
    assert seen in found.value


def test_a_mistake_of_the_user_is_told_as_one():
    def network(image):
        raise UserError("images are too small")

    with pytest.raises(UserError, match="too small"):
        checks(network, *networks.examples())


def test_a_network_for_one_batch_size_only_is_found():
    image, label = networks.examples()
    sound = networks.healthy()
    network = lambda x: sound(x) + jnp.zeros((32, 4))
    found = before.rows_do_not_depend_on_the_batch(network, image, False)
    assert not found.ok and "Error" in found.value


def test_a_position_in_the_batch_is_company_too():
    network = networks.healthy()
    shift = lambda x: network(x) + jnp.arange(len(x))[:, None] / 10
    found = before.rows_do_not_depend_on_the_batch(
        shift, networks.examples()[0], is_random=False
    )
    assert not found.ok


def test_only_64_images_are_looked_at():
    seen, sound = [], networks.healthy()

    def network(image):
        seen.append(len(image))
        return sound(image)

    checks(network, *networks.examples(count=100))
    assert max(seen) == 64


def test_saturation_is_where_the_gradient_is_zero():
    label = jnp.zeros(20, jnp.int32)
    for saturated, ok in ((1, True), (2, False)):
        logits = jnp.zeros((20, 4)).at[:saturated, 0].set(20.0)
        check = outputs.cross_entropy_is_not_saturated(logits, label)
        assert check.ok is ok
        assert f"{saturated / 20:.1%}" in check.value


def test_logits_within_the_unit_interval_are_logits():
    draw = np.random.default_rng(0).uniform(0, 1, (8, 4))
    assert outputs.logits_are_not_probabilities(draw).ok
    assert outputs.logits_are_not_probabilities(-draw).ok
    draw /= draw.sum(1, keepdims=True)
    assert not outputs.logits_are_not_probabilities(draw).ok
    assert not outputs.logits_are_not_probabilities(np.log(draw)).ok
