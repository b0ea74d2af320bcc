"""What every attack promises, run over every member of ATTACKS in both norms.

A new attack adds its options to SPECS, and to REACH if it may leave the eps-ball.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses, registry
from jaxrobust.attacks import ATTACKS
from jaxrobust.threat import NORMS, ThreatModel
from tests.helpers import SHAPE, image_keys, random_images

SPECS = {
    "fgsm": {},
    "fgsm_rs": {"step_ratio": 1.25},
    "nfgsm": {"noise_ratio": 2.0, "step_ratio": 1.0},
    "none": {},
    "pgd": {
        "step_size": 0.03,
        "num_steps": 3,
        "start": "uniform",
        "num_restarts": 2,
        "keep_best": True,
    },
    "random_noise": {},
}
REACH = {"nfgsm": 3.0}
"""How many eps from the image an attack may go, where that is not 1."""
RANDOM = {"fgsm_rs", "nfgsm", "pgd", "random_noise"}
BLIND = {"none", "random_noise"}

EVERY = pytest.mark.parametrize("name", sorted(ATTACKS))
BOTH = pytest.mark.parametrize("norm", NORMS)
EPS = {"linf": 0.1, "l2": 0.6}
COUNT = 12
IMAGE = random_images(COUNT)
LABEL = jnp.asarray(np.random.default_rng(0).integers(0, 3, COUNT))
KEYS = image_keys(np.arange(COUNT))
DRAW = np.random.default_rng(1)
INPUTS = int(np.prod(SHAPE))
WEIGHTS = (
    DRAW.normal(size=(INPUTS, 10)).astype(np.float32) / 2,
    DRAW.normal(size=(10, 3)).astype(np.float32),
)


def network(weights, x):
    return jnp.tanh(jnp.reshape(x, (len(x), -1)) @ weights[0]) @ weights[1]


@cache
def compiled(name, norm):
    """(eps, keys, image, target, weights) -> x_adv, and the list of its traces."""
    traces = []

    @jax.jit
    def attack(eps, keys, image, target, weights):
        traces.append(image.shape)
        given = {"threat": ThreatModel(eps, norm), "loss": losses.cross_entropy}
        built = registry.build(
            "attack", ATTACKS, {"name": name, **SPECS[name]}, **given
        )
        return built(keys, lambda x: network(weights, x), image, target)

    return attack, traces


def run(name, norm, keys=KEYS, image=IMAGE, target=LABEL, eps=None):
    eps = EPS[norm] if eps is None else eps
    return np.asarray(compiled(name, norm)[0](eps, keys, image, target, WEIGHTS))


def distance(x, norm):
    return np.asarray(ThreatModel(1.0, norm).distance(x, IMAGE))


def test_every_attack_is_under_contract():
    assert set(SPECS) == set(ATTACKS)


@EVERY
@BOTH
def test_stays_in_ball_and_box(name, norm):
    x = run(name, norm)
    assert x.shape == IMAGE.shape and x.dtype == np.float32
    assert distance(x, norm).max() <= REACH.get(name, 1.0) * EPS[norm] + 1e-6
    assert x.min() >= 0 and x.max() <= 1


@EVERY
@BOTH
def test_zero_eps_is_identity(name, norm):
    np.testing.assert_array_equal(run(name, norm, eps=0.0), IMAGE)


@EVERY
@BOTH
def test_a_row_does_not_see_its_neighbours(name, norm):
    row, strangers = 5, np.random.default_rng(3).permutation(COUNT)
    strangers[row] = row
    image = np.where(np.arange(COUNT)[:, None, None, None] == row, IMAGE, 1 - IMAGE)
    x = run(name, norm, KEYS[strangers], image, LABEL[strangers])
    np.testing.assert_allclose(x[row], run(name, norm)[row], atol=1e-6)


def test_a_row_alone_equals_the_row_in_a_batch():
    here = slice(3, 4)
    alone = run("pgd", "l2", KEYS[here], IMAGE[here], LABEL[here])
    np.testing.assert_allclose(run("pgd", "l2")[here], alone, atol=1e-6)


@EVERY
@BOTH
def test_the_order_of_the_batch_does_not_matter(name, norm):
    order = np.random.default_rng(2).permutation(COUNT)
    shuffled = run(name, norm, KEYS[order], IMAGE[order], LABEL[order])
    np.testing.assert_allclose(shuffled, run(name, norm)[order], atol=1e-6)


@EVERY
@BOTH
def test_keys_decide_everything_that_is_drawn(name, norm):
    first, again = run(name, norm), run(name, norm)
    np.testing.assert_array_equal(first, again)
    other = run(name, norm, keys=image_keys(np.arange(COUNT), seed=8))
    assert np.array_equal(first, other) == (name not in RANDOM)


@EVERY
def test_no_gradient_flows_through_an_attack(name):
    # In l2: the sign of linf would stop a gradient by itself.
    attack, _ = compiled(name, "l2")
    total = lambda weights: jnp.sum(attack(0.1, KEYS, IMAGE, LABEL, weights))
    for slope in jax.grad(total)(WEIGHTS):
        np.testing.assert_array_equal(slope, np.zeros_like(slope))


@EVERY
@BOTH
def test_one_compilation_serves_every_eps(name, norm):
    attack, traces = compiled(name, norm)
    small, large = (run(name, norm, eps=eps) for eps in (0.01, 0.02))
    assert traces.count(IMAGE.shape) == 1
    if name != "none":
        assert distance(large, norm).max() > 1.5 * distance(small, norm).max()


@EVERY
@BOTH
def test_an_attack_raises_the_loss_and_beats_noise(name, norm):
    def loss(x):
        return float(losses.cross_entropy(network(WEIGHTS, x), LABEL).mean())

    clean, attacked = loss(IMAGE), loss(run(name, norm))
    noise = loss(run("random_noise", norm))
    if name in BLIND:
        assert abs(attacked - clean) < 0.1
    else:
        assert attacked > max(clean, noise) + 0.2


@EVERY
def test_a_one_hot_target_is_the_label(name):
    x = run(name, "linf", target=jax.nn.one_hot(LABEL, 3))
    np.testing.assert_allclose(x, run(name, "linf"), atol=1e-6)
