"""Penalties on curvature and slope: exact on quadratics, blind to the batch, real
gradients."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxrobust import losses
from jaxrobust.errors import UserError
from jaxrobust.objectives.curvature import (
    DIRECTIONS,
    VARIANTS,
    curvature,
    curvature_term,
    gradient_norm,
)
from jaxrobust.objectives.standard import standard
from jaxrobust.state import bind, forward_fn
from tests.helpers import (
    TinyNet,
    assert_trees_close,
    assert_trees_equal,
    linear_logits,
    make_batch,
    random_images,
    random_weight,
    variables_of,
)

D, H = 16, 0.4
DRAW = np.random.default_rng(0)
MATRICES = np.asarray([m + m.T for m in DRAW.normal(size=(3, D, D))], np.float32)
OFFSETS = DRAW.normal(size=(3, D)).astype(np.float32)
IMAGE = jnp.asarray(random_images(6))
LABEL = jnp.asarray([0, 1, 2, 2, 1, 0])
BATCH = make_batch(6)
NET, NORMED = TinyNet(), TinyNet(norm=True)
EVERY_TERM = pytest.mark.parametrize(
    "variant,direction", [(v, d) for v in VARIANTS for d in DIRECTIONS]
)


def flat(image):
    return jnp.reshape(image, (len(image), -1))


def quadratic(x, target, matrices=MATRICES, offsets=OFFSETS):
    """1/2 x^T A x + b^T x with the A and b of each row's class."""
    a, b = jnp.asarray(matrices)[target], jnp.asarray(offsets)[target]
    return 0.5 * jnp.einsum("bi,bij,bj->b", x, a, x) + jnp.sum(b * x, axis=1)


def objective(weight=2.0, variant="squared", direction="gradient", bn="running"):
    return curvature(weight, H, variant, direction, bn)


def outcome(made, net=NORMED, batch=BATCH, variables=None):
    variables = variables or variables_of(net)
    forward = forward_fn(net, variables["params"], variables["batch_stats"])
    return made.outer(forward, batch, batch.image)


@EVERY_TERM
def test_the_term_is_exact_on_quadratics(variant, direction):
    found = curvature_term(flat, quadratic, IMAGE, LABEL, H, variant, direction)
    x = np.asarray(flat(IMAGE), np.float64)
    a, b = MATRICES.astype(np.float64)[LABEL], OFFSETS.astype(np.float64)[LABEL]
    slope = np.einsum("bij,bj->bi", a, x) + b
    along = np.sign(slope) if direction == "sign" else slope
    z = along / np.linalg.norm(along, axis=1, keepdims=True)
    bent = H * np.linalg.norm(np.einsum("bij,bj->bi", a, z), axis=1)
    rise = H * (slope * z).sum(1) + H**2 / 2 * np.einsum("bi,bij,bj->b", z, a, z)
    expected = {"squared": bent**2, "norm": bent, "loss_difference": np.abs(rise)}
    np.testing.assert_allclose(found, expected[variant], rtol=2e-4)


@EVERY_TERM
def test_a_flat_point_gives_zero_and_a_finite_gradient(variant, direction):
    def total(matrices, image):
        loss = lambda x, t: quadratic(x, t, matrices, 0 * OFFSETS)
        return curvature_term(flat, loss, image, LABEL, H, variant, direction).sum()

    value, slopes = jax.value_and_grad(total, (0, 1))(MATRICES, 0 * IMAGE)
    assert float(value) == 0
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)


@EVERY_TERM
def test_an_image_that_the_network_is_sure_of_gives_no_nan(variant, direction):
    weight = jnp.zeros((D, 3))

    def total(weight):
        sure = lambda x: linear_logits(weight)(x) + 1e4 * jax.nn.one_hot(LABEL, 3)
        ce = losses.cross_entropy
        return curvature_term(sure, ce, IMAGE, LABEL, H, variant, direction).sum()

    value, slope = jax.value_and_grad(total)(weight)
    assert float(value) == 0 and bool(jnp.all(slope == 0))


@EVERY_TERM
def test_the_objective_adds_the_term_at_the_running_statistics(variant, direction):
    variables = variables_of(NORMED)
    plain = outcome(standard())
    kept = {"params": variables["params"], "batch_stats": plain.batch_stats}
    term = curvature_term(
        bind(NORMED, kept, "running"),
        losses.cross_entropy,
        BATCH.image,
        BATCH.label,
        H,
        variant,
        direction,
    )
    found = outcome(objective(2.0, variant, direction))
    assert float(term.min()) > 0
    np.testing.assert_allclose(found.loss, plain.loss + 2 * term, rtol=1e-5)
    np.testing.assert_array_equal(found.logits, plain.logits)
    assert_trees_equal(found.batch_stats, plain.batch_stats)


def test_the_term_can_see_the_statistics_of_the_batch():
    variables = variables_of(NORMED)
    network = bind(NORMED, variables, "batch")
    term = curvature_term(
        network, losses.cross_entropy, BATCH.image, BATCH.label, H, "norm", "gradient"
    )
    found = outcome(objective(2.0, "norm", bn="batch"))
    plain = outcome(standard())
    np.testing.assert_allclose(found.loss, plain.loss + 2 * term, rtol=1e-5)
    assert_trees_equal(found.batch_stats, plain.batch_stats)
    running = outcome(objective(2.0, "norm"))
    assert not np.allclose(found.loss, running.loss, rtol=1e-2)


@pytest.mark.parametrize(
    "made", (objective(), objective(2.0, "norm"), gradient_norm(2.0, "norm", "running"))
)
def test_the_weight_does_not_depend_on_the_batch_size(made):
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), BATCH)
    found = outcome(made, batch=twice).loss
    np.testing.assert_allclose(found[:6], outcome(made).loss, rtol=1e-5)
    np.testing.assert_allclose(found[6:], found[:6], rtol=1e-6)


@pytest.mark.parametrize(
    "made", (objective(), objective(2.0, "norm"), gradient_norm(2.0, "norm", "running"))
)
def test_a_rows_loss_does_not_see_other_rows(made):
    part = jax.tree.map(lambda x: x[2:4], BATCH)
    whole = outcome(made, net=NET).loss
    np.testing.assert_allclose(
        outcome(made, net=NET, batch=part).loss, whole[2:4], rtol=1e-5
    )


def test_the_terms_statistics_take_no_gradient():
    variables = variables_of(NORMED)

    def loss(stats):
        made = objective()
        forward = forward_fn(NORMED, variables["params"], stats)
        return made.outer(forward, BATCH, BATCH.image).loss.sum()

    slopes = jax.grad(loss)(variables["batch_stats"])
    assert all(bool(jnp.all(slope == 0)) for slope in jax.tree.leaves(slopes))


@EVERY_TERM
def test_parameter_gradients_are_those_of_a_fixed_direction(variant, direction):
    variables = variables_of(NET)
    weights, unravel = jax.flatten_util.ravel_pytree(variables["params"])

    def value(weights, image):
        logits = NET.apply({"params": unravel(weights)}, image, train=False)
        return losses.cross_entropy(logits, BATCH.label)

    slope = jax.grad(lambda w, x: value(w, x).sum(), 1)
    rows = lambda x: np.asarray(x, np.float64).reshape(6, -1)
    along = rows(slope(weights, BATCH.image))
    along = np.sign(along) if direction == "sign" else along
    z = along / np.linalg.norm(along, axis=1, keepdims=True)
    moved = BATCH.image + jnp.asarray(H * z.reshape(BATCH.image.shape), jnp.float32)

    def total(weights):
        if variant == "loss_difference":
            rise = value(weights, moved) - value(weights, BATCH.image)
            return np.abs(np.asarray(rise, np.float64)).sum()
        bent = rows(slope(weights, moved)) - rows(slope(weights, BATCH.image))
        power = 2 if variant == "squared" else 1
        return (np.linalg.norm(bent, axis=1) ** power).sum()

    def ours(weights):
        changed = {**variables, "params": unravel(weights)}
        with_term = outcome(objective(1.0, variant, direction), NET, variables=changed)
        return (with_term.loss - outcome(standard(), NET, variables=changed).loss).sum()

    gradient = np.asarray(jax.grad(ours)(weights), np.float64)
    for seed in range(3):
        v = np.random.default_rng(seed).normal(size=weights.shape).astype(np.float32)
        step = 1e-2 * v / np.linalg.norm(v)
        slope_by_difference = (total(weights + step) - total(weights - step)) / 2
        expected = pytest.approx(gradient @ step, rel=3e-2, abs=2e-6)
        assert slope_by_difference == expected
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize(
    "made", (objective(0.0), gradient_norm(0.0, "norm", "running"))
)
def test_weight_zero_is_standard_training_bit_for_bit(made):
    variables = variables_of(NORMED)

    def loss(params, made):
        found = outcome(made, variables={**variables, "params": params})
        return found.loss.sum(), found

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    params = variables["params"]
    assert_trees_equal(run(params, made), run(params, standard()))


@pytest.mark.parametrize("variant", ("norm", "squared"))
def test_gradient_norm_of_a_linear_network(variant):
    weight = random_weight()
    forward = lambda image, stats: (linear_logits(weight)(image), stats)
    found = gradient_norm(3.0, variant, "batch").outer(forward, BATCH, BATCH.image)
    logits = np.asarray(linear_logits(weight)(BATCH.image), np.float64)
    miss = softmax(logits, 1) - np.eye(3)[np.asarray(BATCH.label)]
    length = np.linalg.norm(miss @ weight.T, axis=1)
    expected = losses.cross_entropy(jnp.asarray(logits, jnp.float32), BATCH.label)
    expected += 3 * length ** (2 if variant == "squared" else 1)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)


def test_the_gradient_norm_has_a_gradient():
    """The released baseline has none."""
    variables = variables_of(NORMED)

    def slope(made):
        def loss(params):
            return outcome(made, variables={**variables, "params": params}).loss.sum()

        return jax.grad(loss)(variables["params"])

    plain, penalised = (
        slope(made) for made in (standard(), gradient_norm(1.0, "norm", "running"))
    )
    with pytest.raises(AssertionError):
        assert_trees_close(penalised, plain, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "make,says",
    (
        (lambda: objective(-1.0), "at least 0"),
        (lambda: curvature(1.0, 0.0, "norm", "sign", "batch"), "above 0"),
        (lambda: objective(variant="cubic"), "loss_difference, norm, squared"),
        (lambda: objective(direction="up"), "gradient, sign"),
        (lambda: objective(bn="none"), "batch, running"),
        (lambda: gradient_norm(1.0, "loss_difference", "batch"), "norm, squared"),
        (lambda: gradient_norm(-1.0, "norm", "batch"), "at least 0"),
    ),
)
def test_mistakes_are_named(make, says):
    with pytest.raises(UserError, match=says):
        make()
