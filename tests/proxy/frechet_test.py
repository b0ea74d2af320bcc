"""The Frechet distance against closed forms, SciPy and lack of rank."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxrobust.errors import UserError
from jaxrobust.proxy.frechet import frechet_distance

from .clouds import cloud


def with_moments(mean, spread, count=50, seed=0):
    """Points with exactly this mean and the covariance diag(spread^2)."""
    x = cloud(count, len(mean), seed)
    basis = np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt(count - 1)
    return np.asarray(mean) + basis * np.asarray(spread)


def test_diagonal_gaussians_have_a_closed_form():
    mean, other = np.array([1.0, -2, 0, 3]), np.array([0.5, -2, 1, 0])
    spread, wider = np.array([1.0, 2, 0.1, 3]), np.array([2.0, 2, 0.3, 0.5])
    expected = ((mean - other) ** 2).sum() + ((spread - wider) ** 2).sum()
    a, b = with_moments(mean, spread), with_moments(other, wider, 80, seed=1)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_full_covariances_agree_with_scipy():
    a, b = cloud(60, 4) @ cloud(4, 4, seed=1), cloud(70, 4, 2) @ cloud(4, 4, seed=3) + 1
    first, second = np.cov(a.T), np.cov(b.T)
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    root = np.real(sqrtm(first @ second))
    expected = apart + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_fewer_points_than_features_do_no_harm(count):
    a, shift = cloud(count, 30), np.linspace(-1, 1, 30)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-10)
    # A root of a rounded zero would show as 1e-8 of it here.
    found = frechet_distance(a, a + shift)
    assert found == pytest.approx((shift**2).sum(), rel=1e-12)


def test_rank_one_fits_have_a_closed_form():
    line, other = np.zeros((4, 3)), np.zeros((6, 3))
    line[:, 0], other[:, 1] = cloud(4, 1)[:, 0], cloud(6, 1, seed=1)[:, 0]
    apart = line[:, 0].mean() ** 2 + other[:, 1].mean() ** 2
    # Across each other they share nothing.
    expected = apart + line[:, 0].var(ddof=1) + other[:, 1].var(ddof=1)
    assert frechet_distance(line, other) == pytest.approx(expected, rel=1e-12)


def test_a_rotation_of_both_changes_nothing():
    a, b = cloud(20, 5), 2 * cloud(25, 5, seed=1)
    turn = np.linalg.qr(cloud(5, 5, seed=2))[0]
    expected = frechet_distance(a, b)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-9)


def test_one_image_has_no_covariance():
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(cloud(1), cloud(5))
