"""Entropic transport brackets the exact distance and closes in on it."""

import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrobust.errors import UserError
from jaxrobust.proxy.sinkhorn import sinkhorn
from jaxrobust.proxy.wasserstein import cost_matrix, wasserstein1

from .clouds import cloud

A, B = cloud(40, seed=1), 0.7 * cloud(40, seed=2) + 0.4
COST, EXACT = cost_matrix(A, B, "l2"), wasserstein1(A, B, "l2")


def test_bounds_close_in_as_the_regulariser_falls():
    found = [sinkhorn(COST, r, 5000, 1e-5) for r in (1.0, 0.3, 0.1, 0.03, 0.01)]
    gaps = [x.upper - x.lower for x in found]
    assert all(x.lower <= EXACT + 1e-5 and EXACT <= x.upper + 1e-5 for x in found)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.3 and gaps[-1] < 0.01
    # The entropy of a plan differs by at most log n from that of any other.
    assert all(x.upper - EXACT <= x.regulariser * np.log(40) + 1e-4 for x in found)


@pytest.mark.parametrize("steps", [1, 3])
def test_bounds_hold_before_it_has_converged(steps):
    found = sinkhorn(COST, 0.03, steps, 0.0)
    assert found.num_steps == steps and found.marginal_error > 0.01
    assert found.lower < EXACT < found.upper


def test_it_stops_where_the_marginals_are_right():
    found = sinkhorn(COST, 0.3, 5000, 1e-3)
    assert found.num_steps < 1000
    assert found.marginal_error < 2e-3
    assert found.regulariser == 0.3


def test_unequal_sizes_are_bracketed_too():
    cost = cost_matrix(cloud(6, seed=3), cloud(9, seed=4), "linf")
    rows = np.kron(np.eye(6), np.ones((1, 9)))
    columns = np.kron(np.ones((1, 6)), np.eye(9))
    mass = np.concatenate([np.full(6, 1 / 6), np.full(9, 1 / 9)])
    exact = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=mass).fun
    found = sinkhorn(cost, 0.02, 5000, 1e-5)
    assert found.lower - 1e-5 <= exact <= found.upper + 1e-5
    assert found.upper - found.lower < 0.05 * exact


def test_nothing_to_carry_costs_nothing():
    found = sinkhorn(np.zeros((5, 5)), 0.1, 100, 1e-6)
    assert found.lower == found.upper == 0
    assert found.num_steps == 1 and found.marginal_error < 1e-6


def test_the_regulariser_must_be_positive():
    with pytest.raises(UserError, match="regulariser"):
        sinkhorn(COST, 0.0, 10, 1e-3)
