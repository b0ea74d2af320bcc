"""The exact gradient of trajectory matching, its memory, and the step around it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxrobust import tree
from jaxrobust.distill.dsa import unchanged
from jaxrobust.distill.images import image_sgd
from jaxrobust.distill.mtt import trajectory_match
from jaxrobust.distill.trajectory import (
    Grads,
    Segment,
    checkpointed_scan,
    draw_batches,
    expert_labels,
    flat_network,
    hard_labels,
    init_state,
    make_trajectory_step,
)
from jaxrobust.errors import UserError
from jaxrobust.models.convnet import convnet
from jaxrobust.state import init_variables
from tests.distill.trajectory import (
    KEY,
    SIZE,
    brighten,
    network,
    problem,
    relative,
    slope_of,
    temporary_bytes,
)
from tests.helpers import CLASSES, SHAPE, TinyNet, random_images

PARAMS = 20_000


def unrolled(given, steps, batch_size):
    """The same by a Python loop, and nothing kept apart."""
    batches = draw_batches(given.key, SIZE, batch_size, steps)

    def loss(image, rate):
        params = given.segment.start
        for i in range(steps):
            params -= rate * slope_of(batches, i, params, image, given.target)
        return relative(params, given.segment)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(given.image, given.rate)


@pytest.mark.parametrize("steps,soft", ((1, False), (4, True), (7, False)))
def test_gradient_is_that_of_the_whole_unroll(steps, soft):
    with jax.enable_x64(True):
        given = problem(soft=soft)
        value, grads = unrolled(given, steps, 3)
        match = jax.jit(trajectory_match(network(), brighten, steps, 3))
        found, ours = match(*given)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        np.testing.assert_allclose(ours.image, grads[0], rtol=1e-8, atol=1e-14)
        np.testing.assert_allclose(ours.rate, grads[1], rtol=1e-10)
        assert np.abs(grads[0]).max() > 1e-4 and abs(grads[1]) > 1e-4


def end_by_hand(weight, image, label, rate, rows):
    """Softmax regression without bias after full SGD, by NumPy."""
    for row in rows:
        x = image[row].reshape(len(row), -1)
        p = np.exp(x @ weight)
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(row)), label[row]] -= 1
        weight = weight - rate * x.T @ p / len(row)
    return weight


def test_gradient_of_softmax_regression_against_central_differences():
    draw, steps = np.random.default_rng(5), 5
    pixels = int(np.prod(SHAPE))
    start, goal = draw.normal(size=(2, pixels, CLASSES))
    image, label = random_images(4, 6).astype(np.float64), np.array([0, 1, 2, 1])
    rows = np.asarray(draw_batches(KEY, 4, 2, steps).rows)

    def loss(image, rate):
        end = end_by_hand(start, image, label, rate, rows)
        return np.sum((end - goal) ** 2) / np.sum((start - goal) ** 2)

    def linear(params, x):
        return x.reshape(len(x), -1) @ params.reshape(pixels, CLASSES)

    with jax.enable_x64(True):
        segment = Segment(jnp.asarray(start.ravel()), jnp.asarray(goal.ravel()))
        match = jax.jit(trajectory_match(linear, unchanged, steps, 2))
        value, grads = match(
            segment, jnp.asarray(image), jnp.asarray(label), jnp.asarray(0.4), KEY
        )
    np.testing.assert_allclose(value, loss(image, 0.4), rtol=1e-10)
    slope = (loss(image, 0.4 + 1e-6) - loss(image, 0.4 - 1e-6)) / 2e-6
    np.testing.assert_allclose(grads.rate, slope, rtol=1e-6)
    for place in draw.choice(image.size, 12, replace=False):
        step = np.zeros(image.size)
        step[place] = 1e-6
        step = step.reshape(image.shape)
        slope = (loss(image + step, 0.4) - loss(image - step, 0.4)) / 2e-6
        np.testing.assert_allclose(grads.image.ravel()[place], slope, atol=1e-8)


@pytest.mark.parametrize("length", (1, 2, 3, 4, 5, 8, 9, 10))
def test_a_checkpointed_scan_is_a_scan(length):
    xs = jnp.linspace(0.1, 0.9, length), jnp.arange(length)

    def body(carry, x):
        return jnp.sin(carry * x[0]) + 0.3 * carry + x[1], None

    plain = lambda start: jnp.sum(lax.scan(body, start, xs)[0] ** 2)
    ours = lambda start: jnp.sum(checkpointed_scan(body, start, xs) ** 2)
    start = jnp.array([0.2, -0.5])
    for a, b in zip(*(jax.value_and_grad(f)(start) for f in (ours, plain))):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def wide(params, x):
    """Much more parameters than anything else."""
    hidden = jnp.tanh(x.reshape(len(x), -1) @ params.reshape(PARAMS // 2, 2).T)
    return hidden[:, :CLASSES] + jnp.sum(hidden, axis=1, keepdims=True)


def match_bytes(match_of, steps):
    spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    segment = Segment(spec(PARAMS), spec(PARAMS))
    return temporary_bytes(
        match_of(steps), segment, spec(2, 2, 1, 1), label, spec(), key
    )


def naive(steps):
    """Automatic differentiation keeps something of every step."""

    def match(segment, image, target, rate, key):
        batches = draw_batches(key, 2, 1, steps)

        def loss(image, rate):
            def step(params, batch):
                def cross_entropy(params):
                    log_p = jax.nn.log_softmax(wide(params, image[batch.rows]))
                    return -jnp.mean(log_p[jnp.arange(1), target[batch.rows]])

                return params - rate * jax.grad(cross_entropy)(params), None

            return relative(lax.scan(step, segment.start, batches)[0], segment)

        return jax.grad(loss, (0, 1))(image, rate)

    return match


def test_memory_grows_as_the_square_root_of_the_number_of_steps():
    ours = lambda steps: trajectory_match(wide, unchanged, steps, 1)
    counts = (16, 64, 256)
    kept = [match_bytes(ours, steps) / (4 * PARAMS) for steps in counts]
    everything = [match_bytes(naive, steps) / (4 * PARAMS) for steps in counts]
    # In vectors of parameters: 2 sqrt(N) and a few, against N at least.
    for steps, vectors in zip(counts, everything):
        assert vectors > steps
    for (few, low), (many, high) in zip(
        zip(counts, kept), zip(counts[1:], kept[1:]), strict=False
    ):
        grown = 2 * (math.sqrt(many) - math.sqrt(few))
        assert 0.8 * grown < high - low < 1.2 * grown
    assert kept[-1] < 0.25 * everything[-1]


def test_a_network_is_a_function_of_its_flat_parameters():
    model = convnet(CLASSES, (0.5,), (0.25,), widths=(4, 4), pool="none", head="mean")
    variables = init_variables(model, SHAPE, KEY)
    vector, _ = ravel_pytree(variables["params"])
    image = random_images(2)
    np.testing.assert_allclose(
        flat_network(model, SHAPE)(vector, image),
        model.apply(variables, image, train=True),
        rtol=1e-6,
    )
    with pytest.raises(UserError, match="norm='instance'"):
        flat_network(TinyNet(norm=True), SHAPE)


def test_every_image_is_seen_once_an_epoch_in_new_orders():
    batches = draw_batches(KEY, 6, 4, 20)
    assert batches.rows.shape == (20, 3) and batches.keys.shape == (20,)
    epochs = np.asarray(batches.rows).reshape(10, 6)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(6), (10, 1)))
    assert len(np.unique(epochs, axis=0)) > 5
    data = jax.random.key_data(batches.keys)
    assert len(np.unique(data, axis=0)) == 20
    assert draw_batches(KEY, 6, 4, 5).rows.shape == (5, 3)
    assert draw_batches(KEY, 6, 100, 5).rows.shape == (5, 6)


def test_the_experts_labels_are_its_probabilities_and_a_constant():
    given = problem()
    labels = expert_labels(network())
    soft = labels(given.segment, given.image, given.target)
    logits = np.asarray(network()(given.segment.goal, given.image), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(soft, p, rtol=1e-5)
    slope = jax.grad(lambda x: labels(given.segment, x, given.target)[0, 0])
    np.testing.assert_array_equal(slope(given.image), 0)


IMAGE = jnp.asarray(random_images(CLASSES * 2).reshape(CLASSES, 2, *SHAPE))
SEGMENT = Segment(jnp.zeros(3), jnp.ones(3))


def step_with(slope, clip=False, least_rate=1e-3, image_tx=None, labels=hard_labels):
    """A step whose gradients are known: `slope` by every pixel and by the rate."""

    def match(segment, image, target, rate, key):
        grads = Grads(jnp.full_like(image, slope), jnp.asarray(slope))
        return jnp.sum(target).astype(jnp.float32), grads

    image_tx = optax.sgd(0.1) if image_tx is None else image_tx
    rate_tx = optax.sgd(0.01, momentum=0.5)
    step = make_trajectory_step(match, labels, image_tx, rate_tx, least_rate, clip)
    return jax.jit(step), init_state(IMAGE, 0.02, image_tx, rate_tx)


def test_images_and_step_size_move_down_their_gradients():
    step, state = step_with(-0.5, image_tx=image_sgd(20.0, 0.0, (0.5,)))
    first, facts = step(state, SEGMENT, KEY)
    np.testing.assert_allclose(first.image, IMAGE + 20 * 0.25 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(facts["rate"], 0.02 + 0.005, rtol=1e-6)
    np.testing.assert_allclose(facts["grad_norm"], 0.5 * math.sqrt(IMAGE.size))
    assert facts["distance"] == 0 + 0 + 1 + 1 + 2 + 2  # labels, class after class
    second, _ = step(first, SEGMENT, KEY)
    np.testing.assert_allclose(second.rate, 0.025 + 0.0075, rtol=1e-6)
    assert second.step == 2


def test_pixels_stay_in_the_box_and_the_step_size_above_its_floor():
    step, state = step_with(9.0, clip=True)
    state, _ = step(state, SEGMENT, KEY)
    np.testing.assert_allclose(state.image, np.maximum(IMAGE - 0.9, 0), atol=1e-6)
    assert state.rate == np.float32(1e-3)
    assert step_with(9.0)[0](state, SEGMENT, KEY)[0].image.min() < 0


def test_the_step_is_a_function_of_state_segment_and_key():
    image_tx, rate_tx = optax.sgd(0.1, 0.5), optax.sgd(0.01, 0.5)
    match = trajectory_match(network(), brighten, 4, 3)
    labels = expert_labels(network())
    step = jax.jit(make_trajectory_step(match, labels, image_tx, rate_tx, 1e-3, True))
    start = init_state(IMAGE, 0.1, image_tx, rate_tx)
    segment = Segment(*(x.astype(jnp.float32) for x in problem().segment))
    once, _ = step(start, segment, KEY)
    twice, _ = step(once, segment, KEY)
    assert tree.digest(step(once, segment, KEY)[0]) == tree.digest(twice)
    other, _ = step(once, segment, jax.random.key(1))
    assert tree.digest(other) != tree.digest(twice)
