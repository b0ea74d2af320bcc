"""Shortest steps to a plane inside the box, against linear and quadratic programs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.attacks.hyperplane import step_to_plane
from jaxrobust.threat import NORMS

COUNT, SIZE = 24, 16
BOX = (0.0, 1.0)
EVERY = pytest.mark.parametrize("norm", NORMS)
SOLVE = jax.jit(partial(step_to_plane, bounds=BOX), static_argnums=0)


def problems(seed=0, count=COUNT, size=SIZE, reach=0.9, tail=1.0):
    """(point, slope, value): planes at a uniform share, up to `reach`, of how far the
    box lets the function fall; some pixels stand at a bound, some slopes are 0."""
    draw = np.random.default_rng(seed)
    point = np.clip(draw.uniform(-0.2, 1.2, (count, size)), 0.0, 1.0)
    slope = draw.normal(size=(count, size)) * draw.exponential(size=(count, size))
    slope = np.sign(slope) * np.abs(slope) ** tail
    slope[:, 3] = 0.0
    sign = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
    room = np.where(-sign[:, None] * slope > 0, 1.0 - point, point)
    value = draw.uniform(0.05, reach, count) * np.sum(np.abs(slope) * room, axis=1)
    return tuple(np.float32(x) for x in (point, slope, sign * value))


def solve(norm, point, slope, value):
    images = (len(point), 1, -1, 1)
    step = SOLVE(norm, point.reshape(images), slope.reshape(images), jnp.asarray(value))
    return np.asarray(step).reshape(point.shape)


def length(norm, step):
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(np.float64(step), order, axis=-1)


def least_length(norm, point, slope, value):
    """The optimum of one row by scipy, in float64."""
    point, slope, value = (np.float64(x) for x in (point, slope, value))
    low, high, size = -point, 1.0 - point, len(point)
    if norm == "l1":  # d = up - down
        found = optimize.linprog(
            np.ones(2 * size),
            A_eq=np.concatenate([slope, -slope])[None],
            b_eq=[-value],
            bounds=[*((0, h) for h in high), *((0, -lo) for lo in low)],
        )
        return found.fun
    if norm == "linf":  # least t with -t <= d <= t
        both = np.concatenate([np.eye(size), -np.eye(size)])
        found = optimize.linprog(
            np.eye(size + 1)[-1],
            A_ub=np.concatenate([both, -np.ones((2 * size, 1))], axis=1),
            b_ub=np.zeros(2 * size),
            A_eq=np.concatenate([slope, [0.0]])[None],
            b_eq=[-value],
            bounds=[*zip(low, high), (0, None)],
        )
        return found.fun
    found = optimize.minimize(
        lambda d: d @ d,
        np.zeros(size),
        jac=lambda d: 2 * d,
        bounds=list(zip(low, high)),
        constraints={
            "type": "eq",
            "fun": lambda d: value + slope @ d,
            "jac": lambda d: slope,
        },
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return np.sqrt(found.fun)


@EVERY
def test_is_the_shortest_step_to_the_plane(norm):
    point, slope, value = problems()
    step = solve(norm, point, slope, value)
    expected = [least_length(norm, *row) for row in zip(point, slope, value)]
    np.testing.assert_allclose(length(norm, step), expected, rtol=1e-4)


@EVERY
@pytest.mark.parametrize("tail", [1.0, 4.0])
def test_reaches_the_plane_and_stays_in_the_box(norm, tail):
    # Slopes over many orders of magnitude need the most Newton steps.
    point, slope, value = problems(1, count=40, size=3072, reach=0.999, tail=tail)
    step = solve(norm, point, slope, value)
    left = value + np.sum(np.float64(slope) * step, axis=1)
    np.testing.assert_allclose(left / value, 0.0, atol=1e-5)
    assert (point + step).min() >= -1e-6 and (point + step).max() <= 1 + 1e-6


@EVERY
def test_an_unreachable_plane_gives_the_nearest_corner(norm):
    point, slope, value = problems(2)
    step = solve(norm, point, slope, 100.0 * value)
    toward = -np.sign(value)[:, None] * slope
    corner = np.where(toward > 0, 1.0 - point, np.where(toward < 0, -point, 0.0))
    np.testing.assert_allclose(step, corner, atol=1e-6)


@EVERY
def test_without_slope_or_gap_nothing_moves(norm):
    point, slope, value = problems(3)
    np.testing.assert_array_equal(solve(norm, point, 0.0 * slope, value), 0.0)
    np.testing.assert_array_equal(solve(norm, point, slope, 0.0 * value), 0.0)


@EVERY
def test_the_scale_of_the_function_does_not_matter(norm):
    point, slope, value = problems(4)
    step = solve(norm, point, slope, value)
    for scale in (np.float32(1e-18), np.float32(1e12)):
        scaled = solve(norm, point, scale * slope, scale * value)
        np.testing.assert_allclose(scaled, step, atol=1e-5)


def test_equal_slopes_share_in_l1():
    point = np.full((1, SIZE), 0.25, np.float32)
    slope = np.where(np.arange(SIZE) < 4, -2.0, -1.0).astype(np.float32)[None]
    step = solve("l1", point, slope, np.float32([1.0]))
    np.testing.assert_allclose(step[0], np.where(np.arange(SIZE) < 4, 0.125, 0.0))


def test_in_l2_without_bounds_it_is_the_formula():
    point = np.full((COUNT, SIZE), 0.5, np.float32)
    _, slope, _ = problems(5)
    value = np.linspace(-0.1, 0.1, COUNT).astype(np.float32)
    expected = -value[:, None] * slope / np.sum(slope**2, axis=1, keepdims=True)
    assert np.abs(expected).max() < 0.5
    step = solve("l2", point, slope, value)
    np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-7)
