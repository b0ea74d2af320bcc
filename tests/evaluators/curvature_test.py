"""Curvature of the loss around images, against eigenvalues that NumPy finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxrobust import losses
from jaxrobust.evaluators.curvature import (
    CurvaturePass,
    hessian_top,
    top_eigenvalue,
)
from jaxrobust.loader import Feed, Pool
from jaxrobust.objectives.curvature import curvature
from jaxrobust.objectives.standard import standard
from jaxrobust.state import bind, forward_fn
from tests.helpers import (
    TinyNet,
    image_keys,
    linear_logits,
    make_batch,
    random_weight,
    variables_of,
)

D = 16
SPECTRA = {
    "positive": np.linspace(0.0, 5.0, D),
    "negative": np.linspace(-5.0, -1.0, D),
    "mostly negative": np.linspace(-5.0, 2.0, D),
    "mostly positive": np.linspace(-2.0, 5.0, D),
    "opposite": np.r_[-3.0, 3.0, np.zeros(D - 2)],
    "tiny": 1e-24 * np.linspace(0.0, 5.0, D),
    "zero": np.zeros(D),
}
NET = TinyNet()
BATCH = make_batch(6)
KEYS, KEY = image_keys(np.arange(6)), jax.random.key(7)
INDEX = np.arange(40)
CE = losses.cross_entropy


def matrices():
    """f32[M,D,D] of these spectra in random bases."""
    draw = np.random.default_rng(0)
    bases = [np.linalg.qr(draw.normal(size=(D, D)))[0] for _ in SPECTRA]
    made = [q @ np.diag(s) @ q.T for q, s in zip(bases, SPECTRA.values())]
    return np.asarray(made, np.float32)


def found_top(num_steps):
    a = jnp.asarray(matrices())
    starts = np.random.default_rng(1).normal(size=(2, len(a), D)).astype(np.float32)
    return np.asarray(
        top_eigenvalue(lambda v: jnp.einsum("bij,bj->bi", a, v), *starts, num_steps)
    )


def test_the_top_eigenvalue_is_that_of_numpy():
    expected = [spectrum.max() for spectrum in SPECTRA.values()]
    for name, ours, value in zip(SPECTRA, found_top(200), expected):
        scale = np.abs(SPECTRA[name]).max()
        assert ours == pytest.approx(value, abs=1e-3 * scale), name


def test_a_few_steps_find_less_and_never_more():
    expected = np.asarray([spectrum.max() for spectrum in SPECTRA.values()])
    few, more = found_top(2), found_top(20)
    assert np.all(few <= expected + 1e-4) and np.all(more <= expected + 1e-4)
    assert np.all(few[:5] < expected[:5] - 0.01)
    assert np.abs(more - expected).sum() < np.abs(few - expected).sum()


def test_the_hessian_of_a_linear_network_is_known():
    weight = random_weight().astype(np.float64)
    logits_fn = linear_logits(jnp.asarray(weight, jnp.float32))
    found = hessian_top(logits_fn, CE, BATCH.image, BATCH.label, KEYS, 100)
    for value, p in zip(found, softmax(np.asarray(logits_fn(BATCH.image)), 1)):
        hessian = weight @ (np.diag(p) - np.outer(p, p)) @ weight.T
        assert value == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)


def test_the_hessian_of_a_small_network_is_that_of_jax():
    logits_fn = bind(NET, variables_of(NET), "running")
    found = hessian_top(logits_fn, CE, BATCH.image, BATCH.label, KEYS, 100)

    def loss(x, label):
        return CE(logits_fn(jnp.reshape(x, (1, 4, 4, 1))), label[None])[0]

    flat = jnp.reshape(BATCH.image, (6, -1))
    whole = jax.vmap(jax.jacfwd(jax.grad(loss)))(flat, BATCH.label)
    expected = np.linalg.eigvalsh(np.asarray(whole, np.float64))
    scale = np.abs(expected).max(axis=1)
    assert np.all(np.abs(found - expected[:, -1]) < 2e-3 * scale)


@pytest.fixture(scope="module")
def feed(images, mesh):
    """The images on the device."""
    return Feed(Pool((images,)), mesh, 1.0)


def measure(
    mesh, feed, batch_size, index=INDEX, logits_fn=None, loss=CE, curv_h=0.3, steps=20
):
    logits_fn = logits_fn or bind(NET, variables_of(NET), "running")
    measured = CurvaturePass(loss, steps, batch_size, mesh)
    return measured(logits_fn, feed, index, KEY, curv_h)


def test_values_do_not_depend_on_batch_order_or_company(mesh, feed):
    whole = measure(mesh, feed, 16)
    order = np.random.default_rng(0).permutation(40)[:11]
    part = measure(mesh, feed, 5, order)
    assert len(whole.hessian_top) == 40 and len(part.hessian_top) == 11
    np.testing.assert_allclose(part.hessian_top, whole.hessian_top[order], rtol=1e-4)
    np.testing.assert_allclose(part.difference, whole.difference[order], rtol=1e-4)


@pytest.mark.parametrize("curv_h", (0.1, 1.0))
def test_both_values_are_exact_on_a_quadratic(mesh, feed, images, curv_h):
    a = matrices()[list(SPECTRA).index("mostly positive")]
    loss = lambda x, label: 0.5 * jnp.sum(x * (x @ a), axis=1)
    flat = lambda image: jnp.reshape(image, (len(image), -1))
    found = measure(mesh, feed, 40, INDEX, flat, loss, curv_h, steps=100)
    slope = flat(images.image.astype(np.float64) / 255) @ a
    z = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    bent = np.linalg.norm(z @ a, axis=1)
    np.testing.assert_allclose(found.difference, bent, rtol=1e-3)
    np.testing.assert_allclose(found.hessian_top, 5.0, rtol=1e-2)
    assert np.all(found.difference <= 5.0 + 1e-3)


def test_the_summary_is_mean_and_standard_deviation(mesh, feed):
    found = measure(mesh, feed, 40)
    seen = found.summary()
    assert seen["hessian_top"] == pytest.approx(np.mean(found.hessian_top))
    assert seen["hessian_top_std"] == pytest.approx(np.std(found.hessian_top))
    assert seen["curvature"] == pytest.approx(np.mean(found.difference))
    assert seen["curvature_std"] == pytest.approx(np.std(found.difference))
    assert seen["hessian_top_std"] > 0 and seen["curvature_std"] > 0


def test_one_compilation_serves_all_networks_and_lengths(mesh, feed):
    traces = []

    def loss(logits, label):
        traces.append(0)
        return CE(logits, label)

    measured = CurvaturePass(loss, 2, 16, mesh)
    seen = []
    for seed, curv_h in ((0, 0.3), (1, 0.3), (1, 0.6)):
        logits_fn = bind(NET, variables_of(NET, seed), "running")
        seen.append(measured(logits_fn, feed, INDEX, KEY, curv_h).difference.mean())
        count = len(traces) if seed == 0 else count
    assert len(traces) == count
    assert len(set(seen)) == 3


def test_the_penalty_lowers_what_is_measured(mesh, feed):
    # Soft labels: the Hessian of a network that may become ever surer goes to 0 by
    # itself, since softmax saturates.
    batch = make_batch(40)
    batch = batch._replace(soft_label=0.7 * jax.nn.one_hot(batch.label, 3) + 0.1)
    start = variables_of(NET)["params"]

    def train(objective):
        def loss(params):
            forward = forward_fn(NET, params, {})
            return objective.outer(forward, batch, batch.image).loss.mean()

        def step(params, _):
            move = lambda w, g: w - 0.3 * g
            return jax.tree.map(move, params, jax.grad(loss)(params)), None

        params, _ = jax.jit(lambda p: jax.lax.scan(step, p, length=150))(start)
        return bind(NET, {"params": params, "batch_stats": {}}, "running")

    penalty = curvature(10.0, 0.3, "squared", "gradient", "running")
    plain, flat = (train(made) for made in (standard(), penalty))
    bent, less = (measure(mesh, feed, 40, logits_fn=f).summary() for f in (plain, flat))
    assert less["hessian_top"] < 0.7 * bent["hessian_top"]
    assert less["curvature"] < 0.7 * bent["curvature"]
    right = np.asarray(flat(batch.image)).argmax(1) == np.asarray(batch.label)
    assert right.mean() > 0.9
