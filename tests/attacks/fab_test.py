"""FAB against the closed forms of a linear network, and what its state promises."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.fab import fab, fab_component, minimal_perturbation
from jaxrobust.attacks.machine import as_attack
from jaxrobust.errors import UserError
from jaxrobust.threat import NORMS, ThreatModel
from tests.helpers import image_keys, linear_logits, random_images, random_weight

EVERY = pytest.mark.parametrize("norm", NORMS)
COUNT, STEPS = 16, 20
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
WEIGHT = random_weight(1)
LOGITS = linear_logits(WEIGHT, -0.5 * WEIGHT.sum(0, keepdims=True))
KEYS = image_keys(np.arange(COUNT))


def images_near_a_boundary():
    """Grey images, where every class is about as likely: the box is far away."""
    image = random_images(400, low=0.45, high=0.55)
    top = -np.sort(-np.asarray(LOGITS(image)), axis=1)
    margin = top[:, 0] - top[:, 1]
    # In l1 one pixel pays for all: a room of 0.45 times a slope of about 2.
    return image[(margin > 0.05) & (margin < 0.4)][:COUNT]


IMAGE = images_near_a_boundary()
LABEL = jnp.argmax(LOGITS(IMAGE), axis=1)


def exact(norm):
    """min_k (z_y - z_k) / ||w_y - w_k||_dual, f64[B]."""
    logits, label = np.float64(LOGITS(IMAGE)), np.asarray(LABEL)
    distance = np.full(logits.shape, np.inf)
    for row, own in enumerate(label):
        for k in set(range(logits.shape[1])) - {int(own)}:
            slope = np.linalg.norm(WEIGHT[:, own] - WEIGHT[:, k], DUAL[norm])
            distance[row, k] = (logits[row, own] - logits[row, k]) / slope
    return distance.min(axis=1)


def overshoot(eta=1.05, alpha_max=0.1, beta=0.9):
    """FAB's best distance to a straight boundary at distance 1, in one dimension."""
    x, best = 0.0, np.inf
    for _ in range(STEPS):
        alpha = min(abs(1 - x) / (abs(1 - x) + 1), alpha_max)
        x = (1 - alpha) * (x + eta * (1 - x)) + alpha * eta
        if x > 1:
            x, best = beta * x, min(best, x)
    return best


def fair_eps(norm):
    """A radius in the middle with no distance near it."""
    least = np.sort(exact(norm))[COUNT // 4 : -COUNT // 4]
    widest = np.argmax(least[1:] / least[:-1])
    assert least[widest + 1] > 1.03 * least[widest]
    return float(np.sqrt(least[widest] * least[widest + 1]))


@cache
def searched(norm, halvings=10):
    search = minimal_perturbation(norm, STEPS, 2, halvings)
    search = jax.jit(search, static_argnums=1)
    return search, *map(np.asarray, search(KEYS, LOGITS, IMAGE, LABEL))


@cache
def attacker(norm, targeted, start="image"):
    @jax.jit
    def attack(eps, keys, image, label):
        component = fab_component("fab", STEPS, 2, targeted, start)
        return as_attack(component, ThreatModel(eps, norm))(keys, LOGITS, image, label)

    return lambda eps, rows=slice(None): np.asarray(
        attack(jnp.float32(eps), KEYS[rows], IMAGE[rows], LABEL[rows])
    )


def fools(x, rows=slice(None)):
    return np.asarray(jnp.argmax(LOGITS(x), axis=1) != LABEL[rows])


def distance(norm, x, rows=slice(None)):
    return np.asarray(ThreatModel(1.0, norm).distance(x, IMAGE[rows]))


def test_the_images_are_a_fair_problem():
    assert len(IMAGE) == COUNT and len(set(LABEL.tolist())) > 1


@EVERY
def test_finds_the_nearest_boundary_of_a_linear_network(norm):
    _, x, best = searched(norm)
    np.testing.assert_allclose(best, exact(norm), rtol=1e-3)
    np.testing.assert_allclose(distance(norm, x), best, rtol=1e-6)
    assert fools(x).all()


@EVERY
def test_without_halving_the_distance_is_that_of_the_steps(norm):
    _, x, best = searched(norm, 0)
    assert 1.0 < overshoot() < 1.006
    np.testing.assert_allclose(best, overshoot() * exact(norm), rtol=1e-3)
    assert fools(x).all()


@EVERY
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("start", ["image", "random"])
def test_finds_what_is_inside_the_ball_and_no_more(norm, targeted, start):
    eps = fair_eps(norm)
    x = attacker(norm, targeted, start)(eps)
    found = fools(x) & (distance(norm, x) <= eps)
    np.testing.assert_array_equal(found, exact(norm) <= eps)
    assert 0 < found.sum() < COUNT


@EVERY
def test_random_starts_differ(norm):
    eps = fair_eps(norm)
    image, draw = (attacker(norm, False, start)(eps) for start in ("image", "random"))
    assert not np.array_equal(image, draw)


@EVERY
@pytest.mark.parametrize("start", ["image", "random"])
def test_success_does_not_depend_on_the_rest_of_the_batch(norm, start):
    attack, eps = attacker(norm, False, start), fair_eps(norm)
    together = attack(eps)
    order = np.random.default_rng(0).permutation(COUNT)
    for rows in (order, order[:5]):
        x = attack(eps, rows)
        np.testing.assert_array_equal(fools(x, rows), fools(together)[rows])
        np.testing.assert_allclose(x, together[rows], atol=1e-5)


def test_a_misread_image_is_found_at_distance_0():
    search, _, _ = searched("l2")
    wrong = (LABEL + 1) % 3
    x, best = search(
        KEYS, LOGITS, IMAGE, jnp.where(jnp.arange(COUNT) < 4, wrong, LABEL)
    )
    np.testing.assert_array_equal(best[:4], 0.0)
    np.testing.assert_array_equal(x[:4], IMAGE[:4])
    np.testing.assert_allclose(best[4:], exact("l2")[4:], rtol=1e-3)


@EVERY
def test_a_network_that_never_errs_has_no_distance(norm):
    constant = lambda x: jnp.zeros((len(x), 3)).at[:, 1].set(1.0) + 0.0 * jnp.sum(x)
    search = jax.jit(minimal_perturbation(norm, 3, 2, 3), static_argnums=1)
    x, best = search(KEYS, constant, IMAGE, jnp.ones(COUNT, jnp.int32))
    np.testing.assert_array_equal(best, np.inf)
    np.testing.assert_array_equal(x, IMAGE)


def test_the_attack_fools_or_changes_nothing():
    eps = fair_eps("l2")
    attack = jax.jit(fab(ThreatModel(eps, "l2"), STEPS, 2), static_argnums=1)
    x = attack(KEYS, LOGITS, IMAGE, LABEL)
    inside = exact("l2") <= eps
    np.testing.assert_array_equal(fools(x), inside)
    np.testing.assert_array_equal(x[~inside], IMAGE[~inside])
    assert distance("l2", x).max() <= eps


def test_an_unknown_start_is_reported():
    with pytest.raises(UserError, match="start of fab.*image, random"):
        fab_component("fab", 3, 1, True, "centre").machine(ThreatModel(0.1, "l2"))
