"""What is claimed of adversarial images follows from the images."""

import numpy as np
import pytest
from scipy import stats

from jaxrobust.evaluators import proof
from jaxrobust.threat import make_threat
from tests.helpers import random_images

LINF = make_threat("linf", 8 / 255)


@pytest.mark.parametrize(
    ("distance", "low", "high", "num_nan", "ok"),
    [
        (8 / 255 + 9e-7, 0.0, 1.0, 0, True),
        (8 / 255 + 2e-6, 0.0, 1.0, 0, False),
        (8 / 255, -1e-6, 1.0, 0, False),
        (8 / 255, 0.0, 1.000001, 0, False),
        (8 / 255, 0.0, 1.0, 1, False),
        (float("nan"), 0.0, 1.0, 0, False),
        (0.0, 0.0, float("nan"), 0, False),
    ],
)
def test_ball_and_box(distance, low, high, num_nan, ok):
    found = proof.attacks_stay_in_the_ball(LINF, distance, low, high, num_nan)
    assert found.ok is ok


def test_slack_grows_with_eps_beyond_one():
    l1 = make_threat("l1", 12.0)
    stays = lambda d: proof.attacks_stay_in_the_ball(l1, d, 0.0, 1.0, 0).ok
    assert stays(12.0 + 1e-5) and not stays(12.0 + 2e-5)


def test_recount():
    flags = np.zeros(1000, bool)
    for differing, ok in ((0, True), (1, True), (2, False)):
        recount = flags.copy()
        recount[:differing] = True
        found = proof.flags_are_confirmed(flags, recount)
        assert found.ok is ok
        assert found.value == f"{differing} of 1000 differ"
    assert not proof.flags_are_confirmed(flags[:100], ~flags[:100]).ok


def test_rounded_images_are_those_of_a_file():
    x_adv = random_images(3)
    stored = proof.rounded(x_adv)
    levels = stored * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.max(abs(stored - x_adv)) <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(proof.rounded(stored), stored)
    assert stored.dtype == np.float32


def test_rounding_may_move_five_points():
    assert proof.survives_rounding(0.5, 0.549).ok
    assert not proof.survives_rounding(0.5, 0.56).ok
    assert not proof.survives_rounding(0.5, float("nan")).ok


@pytest.mark.parametrize(
    ("right", "count"), [(0, 10), (3, 10), (500, 1000), (10, 10), (1, 1)]
)
def test_interval_is_wilsons(right, count):
    exact = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(proof.wilson_interval(right, count), exact, atol=1e-12)


def test_enough_images():
    assert proof.enough_images(500, 1000).ok
    assert proof.enough_images(50, 100).ok
    assert not proof.enough_images(40, 80).ok
    assert "46.9% to 53.1%" in proof.enough_images(500, 1000).value


STANDARD = {
    "components": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "num_steps": 100,
    "num_targets": 9,
    "num_queries": 5000,
    "dtype": "float32",
    "num_classes": 10,
    "num_images": 10_000,
    "all_images": 10_000,
}


def test_the_published_protocol_has_its_name():
    found = proof.named_as_published(**STANDARD)
    assert found.ok and found.value == "AutoAttack (standard)"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"components": ("apgd-ce", "apgd-t")}, "apgd-ce, apgd-t"),
        ({"num_steps": 10}, "10 steps"),
        ({"num_targets": 3}, "3 targets"),
        ({"num_queries": 1000}, "1000 queries"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"num_classes": 3}, "3 classes"),
        ({"num_images": 1000}, "1000 of 10000 images"),
    ],
)
def test_every_departure_takes_the_name_away(changed, says):
    found = proof.named_as_published(**STANDARD | changed)
    assert not found.ok
    assert found.value == says
