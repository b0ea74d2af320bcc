"""Fast-LPA against its formulas, on features where a distance is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrobust import losses
from jaxrobust.attacks.fast_lagrangian import fast_lagrangian, feature_distance
from jaxrobust.threat import make_threat
from tests.helpers import (
    TinyNet,
    image_keys,
    linear_logits,
    make_batch,
    random_images,
    random_weight,
    variables_of,
)

COUNT = 8
KEYS = image_keys(np.arange(COUNT))
IMAGE = random_images(COUNT, low=0.3, high=0.7)
WEIGHT = random_weight(classes=2)
LABEL = np.arange(COUNT) % 2
UPHILL = (WEIGHT[:, 1 - LABEL] - WEIGHT[:, LABEL]).T
THREAT = make_threat("linf", 8 / 255)
MIX = np.random.default_rng(5).normal(size=(16, 6)).astype(np.float32)


def flat(x):
    return jnp.reshape(x, (len(x), -1))


def curved(x):
    return jnp.tanh(flat(x - 0.5) @ MIX)


def run(bound, num_steps, features=flat, logits_fn=None, attack_wrong=True, **batch):
    given = {"image": IMAGE, "label": LABEL} | batch
    attack = fast_lagrangian(
        THREAT, losses.margin, bound, num_steps, attack_wrong, features
    )
    logits_fn = linear_logits(WEIGHT) if logits_fn is None else logits_fn
    call = jax.jit(lambda k, x, y: attack(k, logits_fn, x, y))
    return np.asarray(call(KEYS[: len(given["image"])], *given.values()))


def start(image=IMAGE):
    """The image and its noise, which is what no step leaves."""
    return run(0.1, 0, image=image)


def moved(x, origin, features=flat):
    return np.asarray(feature_distance(features(x), features(origin)))


def test_starts_at_noise_of_a_hundredth():
    noise = (start() - IMAGE).ravel()
    assert abs(noise.mean()) < 0.003 and 0.008 < noise.std() < 0.012


def test_follows_the_lagrangian_of_a_linear_network():
    """With pixels as features m = 1: every step is known."""
    bound, num_steps = 0.4, 7
    origin, x = IMAGE.reshape(COUNT, -1), start().reshape(COUNT, -1)
    for t in range(num_steps):
        decay = 0.1 ** (t / num_steps)
        penalty = 10 * 0.1 ** (1 - t / num_steps)
        delta = x - origin
        d = np.linalg.norm(delta, axis=1, keepdims=True)
        g = UPHILL - np.where(d > bound, penalty * delta / d, 0.0)
        u = g / np.linalg.norm(g, axis=1, keepdims=True)
        x = np.clip(x + bound * decay / (1 + 1e-4) * u, 0, 1)
    found = run(bound, num_steps).reshape(COUNT, -1)
    np.testing.assert_allclose(found, x, atol=1e-4)
    assert np.linalg.norm(found - origin, axis=1).min() > bound / 2


@pytest.mark.parametrize("bound", (0.02, 0.1))
def test_one_step_moves_by_the_bound_among_features(bound):
    found = run(bound, 1, curved)
    # The probe of m is 0.1 long: features bend on the way.
    np.testing.assert_allclose(moved(found, start(), curved), bound, rtol=0.2)
    shrunk = lambda x: curved(x) / 5
    np.testing.assert_allclose(
        moved(run(bound / 5, 1, shrunk), start(), shrunk), bound / 5, rtol=0.2
    )


def test_pixels_stay_in_their_range():
    found = run(20.0, 5, image=random_images(COUNT))
    assert found.min() == 0 and found.max() == 1


@pytest.fixture(scope="module")
def trained():
    """(logits_fn, image, label, accuracy) of a small network after 200 steps."""
    batch, net = make_batch(COUNT), TinyNet()
    params = variables_of(net)["params"]
    logits = lambda params, x: net.apply({"params": params}, x, train=False)

    def step(params, _):
        loss = lambda p: losses.cross_entropy(logits(p, batch.image), batch.label)
        g = jax.grad(lambda p: loss(p).mean())(params)
        return jax.tree.map(lambda w, d: w - 0.5 * d, params, g), None

    params = jax.jit(lambda p: jax.lax.scan(step, p, length=200)[0])(params)
    return lambda x: logits(params, x), np.asarray(batch.image), batch.label


@pytest.mark.parametrize("features", (flat, curved))
def test_fools_a_trained_network_near_the_bound(trained, features):
    """Where logits rise by fewer than lambda a unit of distance, the bound holds."""
    logits_fn, image, label = trained
    gentle = lambda x: logits_fn(x) / 10
    margin = lambda x: np.asarray(losses.margin(gentle(x), label))
    assert np.all(margin(image) < 0)
    given = {"logits_fn": gentle, "image": image, "label": label}
    found = {bound: run(bound, 20, features, **given) for bound in (0.3, 1.0)}
    for bound, x in found.items():
        assert np.all(margin(x) > margin(image))
        np.testing.assert_allclose(moved(x, image, features), bound, rtol=0.2)
    assert np.all(margin(found[1.0]) > margin(found[0.3]))
    assert np.mean(margin(found[1.0]) > 0) > 0.8


def test_the_bound_gives_way_where_the_network_is_steep(trained):
    logits_fn, image, label = trained
    steep = lambda x: 3 * logits_fn(x)
    x = run(0.3, 20, flat, steep, image=image, label=label)
    assert np.all(moved(x, image) > 2 * 0.3)


def test_spares_what_is_misread_unless_told():
    wrong = np.asarray(losses.margin(linear_logits(WEIGHT)(IMAGE), LABEL)) > 0
    assert 0 < wrong.sum() < COUNT
    everything, right = (run(0.3, 3, attack_wrong=flag) for flag in (True, False))
    np.testing.assert_array_equal(right[wrong], IMAGE[wrong])
    np.testing.assert_array_equal(right[~wrong], everything[~wrong])
    assert np.all(np.any(everything != IMAGE, axis=(1, 2, 3)))


def test_no_slope_is_no_step_and_no_nan():
    """No distance where d is 0 and may not grow, and a network without gradient."""
    blind = lambda x: jnp.zeros((len(x), 3)) + 0 * flat(x)[:, :1]
    still = run(0.0, 3, blind)
    np.testing.assert_array_equal(still, start())
    np.testing.assert_array_equal(run(0.5, 3, logits_fn=blind), start())


def test_gradient_of_the_distance():
    other = random_images(COUNT, seed=3)
    total = lambda x: jnp.sum(feature_distance(curved(x), curved(other)))
    check_grads(total, (IMAGE,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
    at_zero = jax.grad(lambda x: jnp.sum(feature_distance(flat(x), flat(IMAGE))))
    np.testing.assert_array_equal(at_zero(IMAGE), np.zeros_like(IMAGE))
