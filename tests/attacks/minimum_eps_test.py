"""The smallest eps that fools, against the closed form of a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.minimum_eps import (
    minimum_eps,
    minimum_eps_bisection,
    minimum_eps_grid,
)
from jaxrobust.attacks.pgd import pgd, pgd_from
from jaxrobust.errors import UserError
from jaxrobust.threat import NORMS, ThreatModel, make_threat
from tests.helpers import image_keys, linear_logits, random_images, random_weight

COUNT = 12
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.35, high=0.65)
WEIGHT = random_weight(5, 2)
UPHILL = WEIGHT[:, 1] - WEIGHT[:, 0]
BIAS = np.float32([0.5 * UPHILL.sum(), 0.0])
GAP = IMAGE.reshape(COUNT, -1) @ UPHILL - BIAS[0]
LABEL = (GAP > 0).astype(np.int32)
LOGITS = linear_logits(WEIGHT, jnp.asarray(BIAS)[None])
DUAL = {
    "linf": abs(UPHILL).sum(),
    "l2": np.sqrt((UPHILL**2).sum()),
    "l1": abs(UPHILL).max(),
}
CLOSED = {norm: abs(GAP) / DUAL[norm] for norm in NORMS}
MISREAD = np.arange(COUNT) % 4 == 1
TARGET = np.where(MISREAD, 1 - LABEL, LABEL)


def search(found, label=LABEL, logits=LOGITS):
    result = jax.jit(lambda keys, image: found(keys, logits, image, label))
    return jax.tree.map(np.asarray, result(KEYS, IMAGE))


def pgd_by_share(threat):
    step_size = 0.5 * threat.eps
    return pgd(threat, losses.margin, step_size, 4, "none", 1, True)


def climb_by_share(threat):
    return pgd_from(threat, losses.margin, 0.5 * threat.eps, 4)


def fooled(x, label):
    return np.asarray(losses.margin(LOGITS(x), label)) > 0


@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_bisection_closes_in_on_the_closed_form(norm):
    eps_max = 1.01 * np.sort(CLOSED[norm])[-3]
    threat = make_threat(norm, float(eps_max))
    eps, x, surprises = search(minimum_eps_bisection(pgd_by_share, threat, 10), TARGET)
    expected = np.where(MISREAD, 0, CLOSED[norm])
    reached = expected <= eps_max
    assert 0 < (~reached).sum() < COUNT / 2
    np.testing.assert_array_equal(np.isinf(eps), ~reached)
    np.testing.assert_array_equal(eps[MISREAD], 0)
    # From above, as far as float32 tells the two sides of the border apart.
    over = (eps - expected)[reached]
    assert over.min() > -1e-6 and over.max() < eps_max / 2**10 + 1e-6
    assert fooled(x, TARGET)[reached].all()
    distance = np.asarray(threat.distance(x, IMAGE))
    assert (distance[reached] <= eps[reached] + 1e-6).all()
    np.testing.assert_array_equal(x[~reached | MISREAD], IMAGE[~reached | MISREAD])
    assert surprises.sum() == 0


def test_more_halvings_only_lower_eps():
    threat = make_threat("linf", 0.2)
    found = [search(minimum_eps_bisection(pgd_by_share, threat, n)) for n in (0, 3)]
    np.testing.assert_array_equal(found[0].eps, np.float32(0.2))
    assert (found[1].eps <= 0.2).all() and found[1].eps.mean() < 0.1


@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_grid_finds_the_first_point_above_the_closed_form(norm):
    eps_max = float(1.01 * np.sort(CLOSED[norm])[-3])
    threat = make_threat(norm, eps_max)
    built = minimum_eps_grid(climb_by_share, threat, 1 / 64, 13)
    eps, x, count = search(built, TARGET)
    grid = eps_max * 2.0 ** np.linspace(-6, 0, 13)
    above = np.append(grid, np.inf)[np.searchsorted(grid, CLOSED[norm])]
    np.testing.assert_allclose(eps, np.where(MISREAD, 0, above), rtol=1e-5)
    found = np.isfinite(eps)
    assert fooled(x, TARGET)[found].all()
    np.testing.assert_array_equal(x[~found | MISREAD], IMAGE[~found | MISREAD])
    assert (np.asarray(threat.distance(x, IMAGE))[found] <= eps[found] + 1e-6).all()
    assert count.sum() == 0


def test_a_grid_starts_where_its_last_point_ended():
    # One step a point is far too little without the points before.
    step = lambda threat: pgd_from(threat, losses.margin, 0.02, 1)
    built = minimum_eps_grid(step, make_threat("linf", 0.2), 0.1, 10)
    alone = minimum_eps_grid(step, make_threat("linf", 0.2), 0.99, 2)
    assert np.isfinite(search(built).eps).sum() > np.isfinite(search(alone).eps).sum()


def at_eps(fools):
    """An attack by hand that fools where `fools(eps)`, by a sign of its network."""

    def climb(logits_fn, image, target, x):
        return x, jnp.where(fools, 1.0, -1.0) * jnp.ones(len(x))

    return climb


def test_a_grid_counts_points_that_fail_after_one_that_fooled():
    between = lambda threat: at_eps((threat.eps > 0.15) & (threat.eps < 0.5))
    eps, _, count = search(
        minimum_eps_grid(between, ThreatModel(0.8, "linf"), 1 / 8, 4)
    )
    # The grid is 0.1, 0.2, 0.4, 0.8.
    np.testing.assert_allclose(eps, 0.2, rtol=1e-6)
    np.testing.assert_array_equal(count, 1)


def test_bisection_counts_an_attack_that_fails_at_the_largest_eps():
    jump = lambda image, label: image + 0.3 * (1 - 2 * label) * np.sign(UPHILL[0])

    def make_attack(threat):
        def attack(keys, logits_fn, image, target):
            wins = (threat.eps > 0.4) & (threat.eps < 0.9)
            return jnp.where(wins, jump(image, target[:, None, None, None]), image)

        return attack

    one = linear_logits(jnp.zeros((16, 2)).at[0, 1].set(UPHILL[0]), 0.0)
    shifted = lambda x: one(x - 0.5)
    label = (np.asarray(shifted(IMAGE))[:, 1] > 0).astype(np.int32)
    threat = ThreatModel(1.0, "linf")
    found = search(minimum_eps_bisection(make_attack, threat, 6), label, shifted)
    np.testing.assert_array_equal(found.non_monotone, 1)
    assert (found.eps > 0.4).all() and (found.eps < 0.4 + 2**-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_image_may_have_its_own_eps(norm):
    each = np.linspace(0.05, 2.0, COUNT).astype(np.float32)[:, None, None, None]
    far = IMAGE + np.random.default_rng(3).normal(size=IMAGE.shape).astype(np.float32)

    @jax.jit
    def both(eps, keys, far, image):
        threat = ThreatModel(eps, norm)
        return threat.project(far, image), threat.random_init(keys, image)

    together = both(each, KEYS, far, IMAGE)
    for i in (0, 5, 11):
        row = slice(i, i + 1)
        alone = both(each[i, 0, 0, 0], KEYS[row], far[row], IMAGE[row])
        for all_rows, one_row in zip(together, alone):
            np.testing.assert_allclose(all_rows[row], one_row, atol=1e-6)


def test_the_attack_is_the_bisection_with_pgd():
    threat = make_threat("l2", 0.2)
    built = minimum_eps(threat, losses.margin, 0.5, 4, "none", 1, 6)
    expected = search(minimum_eps_bisection(pgd_by_share, threat, 6)).x_adv
    np.testing.assert_array_equal(search(built), expected)


def test_a_grid_of_one_point_is_the_users_mistake():
    with pytest.raises(UserError, match="num_points >= 2"):
        minimum_eps_grid(climb_by_share, make_threat("l2", 0.2), 0.1, 1)
