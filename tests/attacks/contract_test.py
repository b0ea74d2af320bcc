"""What every attack promises, run over every member of ATTACKS in its norms.

A new attack adds its options to SPECS (an option that is a dict has one value for each
norm), to REACH if it may leave the eps-ball, and to NORMS_OF if it knows some norms
only.
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
    "apgd": {
        "goal": "cross_entropy",
        "num_steps": 10,
        "num_restarts": 2,
        "rho": 0.75,
    },
    "cw_l2": {
        "num_steps": 30,
        "binary_search_steps": 3,
        "learning_rate": 0.1,
        "initial_const": 0.1,
        "confidence": 0.0,
        "bounded": True,
    },
    "deepfool": {
        "num_steps": 4,
        "overshoot": 0.02,
        "num_candidates": 2,
        "bounded": True,
    },
    "fab": {"num_steps": 10, "num_targets": 2},
    "fast_lagrangian": {
        "bound": 0.3,
        "num_steps": 6,
        "attack_wrong": True,
        "features": lambda x: jnp.reshape(x, (len(x), -1)) ** 2,
    },
    "fgsm": {},
    "fgsm_rs": {"step_ratio": 1.25},
    "gaussian": {"sigma": 0.02, "clamp": True},
    "mim": {
        "step_size": {"linf": 0.03, "l2": 0.2, "l1": 0.7},
        "num_steps": 3,
        "decay": 1.0,
        "keep_best": True,
    },
    "minimum_eps": {
        "step_ratio": 0.5,
        "num_steps": 3,
        "start": "uniform",
        "num_restarts": 1,
        "num_halvings": 3,
    },
    "nfgsm": {"noise_ratio": 2.0, "step_ratio": 1.0},
    "none": {},
    "one_pixel": {
        "pixels": 3,
        "population": 8,
        "generations": 4,
        "mutation": 0.5,
    },
    "pgd": {
        "step_size": 0.03,
        "num_steps": 3,
        "start": "uniform",
        "num_restarts": 2,
        "keep_best": True,
    },
    "random_noise": {},
    "square": {
        "num_queries": 150,
        "num_restarts": 1,
        "p_init": 0.8,
        "rescale": True,
    },
}
NORMS_OF = {"cw_l2": ("l2",), "deepfool": ("linf", "l2")}
"""The norms that an attack supports, where that is not all of NORMS."""
REACH = {"fast_lagrangian": np.inf, "nfgsm": 3.0, "one_pixel": np.inf}
REACH["gaussian"] = np.inf
"""How many eps from the image an attack may go, where that is not 1."""
MINIMAL = {"cw_l2", "deepfool", "fab", "minimum_eps"}
"""They stop where the network is fooled, and give up where eps does not reach that."""
STOPS = {"apgd", "square"}
"""They end an image at the first success, so that its loss says little."""
RANDOM = {"fgsm_rs", "minimum_eps", "nfgsm", "one_pixel", "pgd", "random_noise"}
RANDOM |= {"apgd", "fast_lagrangian", "gaussian", "square"}
BLIND = {"gaussian", "none", "random_noise"}

EVERY = pytest.mark.parametrize("name", sorted(ATTACKS))
IN_EVERY_NORM = pytest.mark.parametrize(
    "name,norm",
    [(name, norm) for name in sorted(ATTACKS) for norm in NORMS_OF.get(name, NORMS)],
)
EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
COUNT = 12
IMAGE = random_images(COUNT)
KEYS = image_keys(np.arange(COUNT))
DRAW = np.random.default_rng(1)
INPUTS = int(np.prod(SHAPE))
WEIGHTS = (
    DRAW.normal(size=(INPUTS, 10)).astype(np.float32) / 2,
    DRAW.normal(size=(10, 3)).astype(np.float32),
)


def network(weights, x):
    return jnp.tanh(jnp.reshape(x - 0.5, (len(x), -1)) @ weights[0]) @ weights[1]


# Every fourth image is misread from the start.
READ_AS = jnp.argmax(network(WEIGHTS, IMAGE), axis=-1)
LABEL = (READ_AS + (np.arange(COUNT) % 4 == 3)) % 3


def spec(name, norm):
    """What a config would say of the attack in this norm."""
    chosen = lambda value: value[norm] if isinstance(value, dict) else value
    return {"name": name} | {key: chosen(v) for key, v in SPECS[name].items()}


def a_norm_of(name, preferred):
    """`preferred` where the attack knows it."""
    norms = NORMS_OF.get(name, NORMS)
    return preferred if preferred in norms else norms[0]


@cache
def compiled(name, norm):
    """(eps, keys, image, target, weights) -> x_adv, and the list of its traces."""
    traces = []

    @jax.jit
    def attack(eps, keys, image, target, weights):
        traces.append(image.shape)
        given = {"threat": ThreatModel(eps, norm), "loss": losses.cross_entropy}
        built = registry.build("attack", ATTACKS, spec(name, norm), **given)
        return built(keys, lambda x: network(weights, x), image, target)

    return attack, traces


def run(name, norm, keys=KEYS, image=IMAGE, target=LABEL, eps=None):
    eps = EPS[norm] if eps is None else eps
    return np.asarray(compiled(name, norm)[0](eps, keys, image, target, WEIGHTS))


def distance(x, norm):
    return np.asarray(ThreatModel(1.0, norm).distance(x, IMAGE))


def test_every_attack_is_under_contract():
    assert set(SPECS) == set(ATTACKS)


@IN_EVERY_NORM
def test_stays_in_ball_and_box(name, norm):
    x = run(name, norm)
    assert x.shape == IMAGE.shape and x.dtype == np.float32
    assert distance(x, norm).max() <= REACH.get(name, 1.0) * EPS[norm] + 1e-6
    assert x.min() >= 0 and x.max() <= 1


@IN_EVERY_NORM
def test_zero_eps_is_identity(name, norm):
    if REACH.get(name) == np.inf:
        pytest.skip("eps is not read")
    np.testing.assert_array_equal(run(name, norm, eps=0.0), IMAGE)


@IN_EVERY_NORM
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


@IN_EVERY_NORM
def test_the_order_of_the_batch_does_not_matter(name, norm):
    order = np.random.default_rng(2).permutation(COUNT)
    shuffled = run(name, norm, KEYS[order], IMAGE[order], LABEL[order])
    np.testing.assert_allclose(shuffled, run(name, norm)[order], atol=1e-6)


@IN_EVERY_NORM
def test_keys_decide_everything_that_is_drawn(name, norm):
    first, again = run(name, norm), run(name, norm)
    np.testing.assert_array_equal(first, again)
    other = run(name, norm, keys=image_keys(np.arange(COUNT), seed=8))
    assert np.array_equal(first, other) == (name not in RANDOM)


@EVERY
def test_no_gradient_flows_through_an_attack(name):
    # In l2: the sign of linf would stop a gradient by itself.
    attack, _ = compiled(name, a_norm_of(name, "l2"))
    total = lambda weights: jnp.sum(attack(0.1, KEYS, IMAGE, LABEL, weights))
    for slope in jax.grad(total)(WEIGHTS):
        np.testing.assert_array_equal(slope, np.zeros_like(slope))


@IN_EVERY_NORM
def test_one_compilation_serves_every_eps(name, norm):
    attack, traces = compiled(name, norm)
    small, large = (run(name, norm, eps=eps) for eps in (0.01, 0.02))
    assert traces.count(IMAGE.shape) == 1
    if name in MINIMAL:
        moved = lambda x: np.any(x != IMAGE, axis=(1, 2, 3)).sum()
        assert moved(run(name, norm)) > moved(small)
    elif REACH.get(name) == np.inf:
        np.testing.assert_array_equal(small, large)
    elif name != "none":
        assert distance(large, norm).max() > 1.5 * distance(small, norm).max()


def fooled(x):
    return np.asarray(losses.margin(network(WEIGHTS, x), LABEL)) > 0


@IN_EVERY_NORM
def test_an_attack_raises_the_loss_and_beats_noise(name, norm):
    def loss(x):
        return float(losses.cross_entropy(network(WEIGHTS, x), LABEL).mean())

    clean, attacked = loss(IMAGE), loss(run(name, norm))
    noise = loss(run("random_noise", norm))
    if name in BLIND:
        assert abs(attacked - clean) < 0.1
    elif name in MINIMAL | STOPS:
        noise = run("random_noise", norm)
        counts = [fooled(x).sum() for x in (IMAGE, noise, run(name, norm))]
        assert counts[2] > max(counts[:2]) + 1
    else:
        assert attacked > max(clean, noise) + 0.2


@pytest.mark.parametrize("name", sorted(MINIMAL))
def test_a_minimal_attack_fools_or_changes_nothing(name):
    x = run(name, a_norm_of(name, "l2"))
    changed = np.any(x != IMAGE, axis=(1, 2, 3))
    assert changed.any() and not changed.all()
    assert fooled(x)[changed].all() and not fooled(IMAGE)[changed].any()


@EVERY
def test_a_one_hot_target_is_the_label(name):
    norm = a_norm_of(name, "linf")
    x = run(name, norm, target=jax.nn.one_hot(LABEL, 3))
    np.testing.assert_allclose(x, run(name, norm), atol=1e-6)
