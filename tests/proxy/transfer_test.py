"""Theorem 1 for networks with known distances, theorem 3 as an equality."""

from functools import partial

import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.proxy.transfer import average_robustness, borrow_missing, transfer_table
from jaxrobust.proxy.wasserstein import METRICS, conditional, wasserstein1

from .clouds import cloud, linear_distances

LABEL = np.repeat([0, 1, 2], 12)
PRIOR = np.array([0.2, 0.5, 0.3])
NORMS = sorted(METRICS)


def cwd(a, b, norm):
    return float(conditional(partial(wasserstein1, norm=norm), a, b, LABEL, PRIOR).mean)


def rob(x, weight, norm):
    return average_robustness(linear_distances(x, LABEL, weight)[norm], LABEL, PRIOR)


def clouds(seed):
    """Two clouds whose classes a linear network reads right most of the time."""
    weight = cloud(4, 3, seed=seed)
    centre = 1.5 * (weight / np.linalg.norm(weight, axis=0)).T[LABEL]
    a = centre + cloud(len(LABEL), 4, seed=seed + 1)
    scale = 0.3 + seed % 3
    b = centre * scale + cloud(len(LABEL), 4, seed=seed + 2)
    return a, b, weight


@pytest.mark.parametrize("norm", NORMS)
def test_theorem_1_bounds_the_difference(norm):
    ratios = []
    for seed in range(0, 60, 3):
        a, b, weight = clouds(seed)
        row = transfer_table(
            {"h": (rob(a, weight, norm), rob(b, weight, norm))}, cwd(a, b, norm), [0.0]
        )[0]
        assert row["holds"]
        ratios.append(row["difference"] / row["bound"])
    assert max(ratios) > 0.1, "a bound that is never near says nothing of the code"


def test_a_difference_beyond_the_bound_is_said():
    table = transfer_table({"h": (9.0, 0.0)}, 8.9, [0.0, 0.5, 1.0])
    assert [row["holds"] for row in table] == [False, False, True]
    assert transfer_table({"h": (9.0, 0.1)}, 8.9, [0.0])[0]["holds"]


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_theorem_3_is_an_equality(share):
    a, _, weight = clouds(6)
    away = linear_distances(a, LABEL, weight)["l2"]
    slope = weight[:, LABEL].T[:, :, None] - weight[None]
    length = np.linalg.norm(slope, axis=1)
    length[np.arange(len(a)), LABEL] = np.nan
    margin = np.einsum("nd,ndk->nk", a, slope)
    nearest = np.nanargmin(margin / length, axis=1)
    rows = np.arange(len(a))
    direction = slope[rows, :, nearest] / length[rows, nearest][:, None]
    moved = a - share * away[:, None] * direction
    lost = rob(a, weight, "l2") - rob(moved, weight, "l2")
    assert lost == pytest.approx(share * rob(a, weight, "l2"), rel=1e-9)
    assert cwd(a, moved, "l2") == pytest.approx(lost, rel=1e-9)
    assert lost > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_corollary_2_is_the_theorem_on_the_mixture(norm):
    a, b, weight = clouds(3)
    distances = [linear_distances(x, LABEL, weight)[norm] for x in (a, b)]
    robustness = [average_robustness(d, LABEL, PRIOR) for d in distances]
    table = transfer_table({"h": tuple(robustness)}, cwd(a, b, norm), [0.0, 0.75, 1.0])
    # The mixture 3/4 D + 1/4 D~ as a cloud of its own, and D just as often.
    label = np.tile(LABEL, 4)
    mixed = average_robustness(
        np.concatenate([*[distances[0]] * 3, distances[1]]), label, PRIOR
    )
    mixture = np.concatenate([a, a, a, b])
    apart = conditional(
        partial(wasserstein1, norm=norm), np.tile(a, (4, 1)), mixture, label, PRIOR
    ).mean
    row = table[1]
    assert row["rob_mixture"] == pytest.approx(mixed, rel=1e-12)
    assert row["difference"] <= apart + 1e-9 and apart <= row["bound"] + 1e-9
    assert table[2]["bound"] == table[2]["difference"] == 0
    assert [r["original_share"] for r in table] == [0.0, 0.75, 1.0]


def test_average_weighs_classes_by_the_prior():
    distance = np.where(LABEL == 1, 2.0, 0.0)
    assert average_robustness(distance, LABEL, PRIOR) == pytest.approx(1.0)


def test_missing_distances_are_borrowed_from_their_class():
    image = np.array([[0.0], [1.0], [5.0], [0.1], [7.0]])
    label = np.array([0, 0, 0, 1, 2])
    distance = np.array([np.inf, 0.5, 9.0, 0.2, np.inf])
    filled = borrow_missing(distance, image, label, "linf")
    np.testing.assert_allclose(filled, [1.5, 0.5, 9.0, 0.2, np.inf])
    assert np.isinf(distance[0])


@pytest.mark.parametrize("norm", NORMS)
def test_borrowed_distances_stay_above_the_true_ones(norm):
    a, _, weight = clouds(3)
    true = linear_distances(a, LABEL, weight)[norm]
    holes = np.where(np.arange(len(a)) % 3 == 0, np.inf, true)
    filled = borrow_missing(holes, a, LABEL, norm)
    assert np.isfinite(filled).all() and (filled >= true - 1e-12).all()


def test_unknown_distances_and_shares_are_named():
    with pytest.raises(UserError, match="1 of 2 images"):
        average_robustness(np.array([np.inf, 1]), np.array([0, 0]), np.ones(1))
    with pytest.raises(UserError, match="1 of 2 images"):
        average_robustness(np.array([np.nan, 1]), np.array([0, 0]), np.ones(1))
    with pytest.raises(UserError, match="shares"):
        transfer_table({"h": (1.0, 1.0)}, 1.0, [1.5])
