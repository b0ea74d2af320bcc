"""The ball is a ball: projections, draws and steps, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.errors import UserError
from jaxrobust.threat import NORMS, ThreatModel, column, format_eps, make_threat
from tests.helpers import image_keys, random_images

EVERY = pytest.mark.parametrize("norm", NORMS)
IMAGE = random_images(64)
FAR = random_images(64, seed=1, low=-2.0, high=3.0)
KEYS = image_keys(np.arange(64))
EPS = {"linf": 0.1, "l2": 0.5, "l1": 1.5}
ROUNDING = 1e-6


def norm_of(delta, norm):
    rows = np.asarray(delta, np.float64).reshape(len(delta), -1)
    if norm == "l1":
        return abs(rows).sum(1)
    return abs(rows).max(1) if norm == "linf" else np.sqrt((rows**2).sum(1))


def ball(norm):
    return make_threat(norm, EPS[norm])


@EVERY
def test_projection_is_inside_the_ball_and_the_box(norm):
    x = np.asarray(ball(norm).project(FAR, IMAGE))
    assert norm_of(x - IMAGE, norm).max() <= EPS[norm] + ROUNDING
    assert x.min() >= 0 and x.max() <= 1


@EVERY
def test_projection_keeps_what_is_inside(norm):
    near = ball(norm).random_init(KEYS, IMAGE)
    np.testing.assert_allclose(ball(norm).project(near, IMAGE), near, atol=ROUNDING)


@EVERY
def test_projection_is_the_nearest_point_of_the_ball(norm):
    # Around the middle of a wide box only the ball matters.
    threat = ThreatModel(EPS[norm], norm, (-10.0, 10.0))
    x = np.asarray(threat.project(FAR, IMAGE))
    rivals = np.asarray(threat.random_init(KEYS, IMAGE))
    gap = lambda y: norm_of(FAR - y, "l2")
    assert (gap(x) <= gap(rivals) + ROUNDING).all()
    outside = norm_of(FAR - IMAGE, norm) > EPS[norm]
    assert outside.all()
    np.testing.assert_allclose(norm_of(x - IMAGE, norm), EPS[norm], rtol=1e-5)


def test_the_l1_projection_is_the_nearest_point_of_ball_and_box():
    # The oracle: the same problem as a quadratic program, one row at a time.
    threat = ball("l1")
    found = np.asarray(threat.project(FAR[:4], IMAGE[:4]), np.float64).reshape(4, -1)
    for x, image, here in zip(FAR[:4], IMAGE[:4], found):
        nearest, gap = nearest_in_ball_and_box(
            np.asarray(x, np.float64).ravel(), np.asarray(image, np.float64).ravel()
        )
        np.testing.assert_allclose(here, nearest, atol=1e-3)
        assert np.sum((here - x.ravel()) ** 2) <= gap + 1e-5


def nearest_in_ball_and_box(x, image):
    """The point and its squared distance, as a quadratic program in the two parts of
    the perturbation."""
    size = len(x)
    best = optimize.minimize(
        lambda parts: np.sum((image + parts[:size] - parts[size:] - x) ** 2),
        np.zeros(2 * size),
        bounds=[*zip(np.zeros(size), 1 - image), *zip(np.zeros(size), image)],
        constraints={"type": "ineq", "fun": lambda p: EPS["l1"] - np.sum(p)},
    )
    return image + best.x[:size] - best.x[size:], best.fun


@EVERY
def test_draws_fill_the_ball_and_stay_inside(norm):
    middle = np.full_like(IMAGE, 0.5)
    threat = ThreatModel(EPS[norm], norm, (-10.0, 10.0))
    sizes = norm_of(threat.random_init(KEYS, middle) - middle, norm)
    assert sizes.max() <= EPS[norm] + ROUNDING
    # In 16 dimensions nearly all of the volume is near the surface.
    assert sizes.mean() > 0.85 * EPS[norm]
    clipped = np.asarray(ball(norm).random_init(KEYS, IMAGE))
    assert clipped.min() >= 0 and clipped.max() <= 1


def test_l2_draws_are_uniform_in_the_ball():
    keys = image_keys(np.arange(4000))
    middle = np.zeros((4000, 1, 2, 1), np.float32)
    threat = ThreatModel(1.0, "l2", (-10.0, 10.0))
    drawn = np.asarray(threat.random_init(keys, middle)).reshape(-1, 2)
    radius = np.sqrt((drawn**2).sum(1))
    # P(r < t) = t^2 in the plane; and no direction is preferred.
    np.testing.assert_allclose(np.mean(radius < 0.5), 0.25, atol=0.03)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.03)


def test_linf_draws_are_uniform_in_the_cube():
    keys = image_keys(np.arange(4000))
    middle = np.full((4000, 1, 1, 1), 0.5, np.float32)
    drawn = np.asarray(make_threat("linf", 0.1).random_init(keys, middle)).ravel()
    found, _ = np.histogram(drawn, bins=4, range=(0.4, 0.6))
    np.testing.assert_allclose(found / 4000, 0.25, atol=0.03)


@EVERY
def test_a_rows_draw_does_not_see_its_neighbours(norm):
    whole = ball(norm).random_init(KEYS, IMAGE)
    alone = ball(norm).random_init(KEYS[5:6], IMAGE[5:6])
    np.testing.assert_allclose(whole[5:6], alone, atol=ROUNDING)


@EVERY
def test_the_steepest_unit_step_gains_the_dual_norm(norm):
    gradient = FAR - 0.5
    step = np.asarray(ball(norm).steepest(gradient))
    np.testing.assert_allclose(norm_of(step, norm), 1.0, rtol=1e-5)
    gain = (step * gradient).reshape(64, -1).sum(1)
    dual = norm_of(gradient, {"linf": "l1", "l2": "l2", "l1": "linf"}[norm])
    np.testing.assert_allclose(gain, dual, rtol=1e-5)


@EVERY
def test_no_gradient_means_no_step(norm):
    zero = ball(norm).steepest(jnp.zeros_like(IMAGE))
    np.testing.assert_array_equal(zero, np.zeros_like(IMAGE))


@EVERY
def test_eps_zero_leaves_the_image(norm):
    threat = make_threat(norm, 0.0)
    np.testing.assert_array_equal(threat.project(FAR, IMAGE), IMAGE)
    np.testing.assert_array_equal(threat.random_init(KEYS, IMAGE), IMAGE)


@EVERY
def test_distance_is_the_norm(norm):
    found = ball(norm).distance(FAR, IMAGE)
    np.testing.assert_allclose(found, norm_of(FAR - IMAGE, norm), rtol=1e-5)


@EVERY
def test_the_ball_contains_its_points_and_no_others(norm):
    threat = ball(norm)
    near = np.asarray(threat.project(FAR, IMAGE))
    assert threat.contains(near, IMAGE).all()
    assert not threat.contains(IMAGE + 1.01 * (near - IMAGE), IMAGE).any()
    per_row = ThreatModel(column(jnp.full(64, EPS[norm])), norm)
    assert per_row.contains(near, IMAGE).all()


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf, -1e-6, 1 + 1e-6))
def test_no_ball_contains_what_is_no_pixel(value):
    x = IMAGE.copy()
    x[5, 0, 0, 0] = value
    inside = np.asarray(ThreatModel(np.inf, "linf").contains(x, IMAGE))
    assert not inside[5] and inside.sum() == 63


@pytest.mark.parametrize("eps", (0.3, jnp.full((64, 1, 1, 1), 0.3)))
def test_every_row_has_an_eps(eps):
    rows = ThreatModel(eps, "l2").eps_of_rows(IMAGE)
    np.testing.assert_array_equal(rows, np.full(64, 0.3, np.float32))


@EVERY
def test_eps_is_traced_and_the_norm_is_not(norm):
    traces = []

    @jax.jit
    def project(threat, x):
        traces.append(threat.norm)
        return threat.project(x, IMAGE)

    for eps in (0.1, 0.2):
        found = project(make_threat(norm, eps), FAR)
        np.testing.assert_allclose(
            norm_of(found - IMAGE, norm).max(), eps, rtol=0.2, atol=0
        )
    assert traces == [norm]


@pytest.mark.parametrize(
    "norm,eps,message",
    (
        ("linf", 8, "8 / 255 = 0.031373"),
        ("linf", 2, "looks like 8-bit units"),
        ("l2", 128, "128 / 255"),
        ("linf", -0.1, "must be >= 0"),
        ("linf", float("nan"), "must be >= 0"),
        ("l3", 0.1, "choose from l1, l2, linf"),
    ),
)
def test_an_impossible_threat_is_the_users_mistake(norm, eps, message):
    with pytest.raises(UserError, match=message):
        make_threat(norm, eps)


@pytest.mark.parametrize(
    "norm,eps,text",
    (
        ("linf", 8 / 255, "8/255"),
        ("linf", 0.15, "0.15"),
        ("linf", 0, "0/255"),
        ("l2", 0.5, "0.5"),
        ("l2", 128 / 255, "0.502"),
    ),
)
def test_eps_is_written_as_people_write_it(norm, eps, text):
    assert format_eps(make_threat(norm, eps)) == text
