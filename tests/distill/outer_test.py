"""The outer loop: lives of networks, the inner loop, a pure step that can resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import tree
from jaxrobust.distill.images import image_sgd, noise_images
from jaxrobust.distill.outer import (
    LOOPS,
    Loops,
    init_state,
    inner_loop,
    loops,
    make_outer_step,
)
from jaxrobust.errors import UserError
from jaxrobust.objectives.standard import standard
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state
from jaxrobust.train_step import StepOptions, make_train_step
from tests.distill.toy import IPC, by_class
from tests.helpers import CLASSES, SHAPE, TinyNet, variables_of

KEY = jax.random.key(9)
IMAGE = by_class(IPC, seed=0)
REAL = IMAGE[:, :1]
TX = optax.identity()


def fresh(key):
    """A network that is one random number and counts how often it saw each image."""
    params = {"born": jax.random.normal(key), "seen": jnp.zeros(CLASSES * IPC)}
    return create_state({"params": params}, TX, with_ema=False)


def count_rows(network, batch, key):
    params = {**network.params, "seen": network.params["seen"].at[batch.index].add(1.0)}
    return network.replace(step=network.step + 1, params=params), {}


def ones(network, image, real, key):
    return jnp.sum(network.params["seen"]), jnp.ones_like(image)


def make(loops, match=ones, image_tx=None, clip=False):
    image_tx = optax.sgd(0.01) if image_tx is None else image_tx
    step = make_outer_step(match, fresh, count_rows, image_tx, loops, 4, clip)
    return jax.jit(step), init_state(IMAGE, image_tx, fresh)


def run(count, loops, **parts):
    step, state = make(loops, **parts)
    states, numbers = [], []
    for _ in range(count):
        state, facts = step(state, REAL, KEY)
        states.append(state)
        numbers.append(facts)
    return states, numbers


def test_a_network_lives_for_outer_steps_and_learns_between_them():
    states, numbers = run(7, Loops(3, 2))
    born = [float(s.network.params["born"]) for s in states]
    assert born[0] == born[1] == born[2] and born[3] == born[4] == born[5]
    assert len(set(born)) == 3
    # Two epochs of three batches; none after the last match of a life.
    assert [int(s.network.step) for s in states] == [4, 8, 8, 4, 8, 8, 4]
    assert [float(n["distance"]) for n in numbers] == [0, 12, 24, 0, 12, 24, 0]


def test_with_one_outer_step_each_has_its_network_and_none_learns():
    states, _ = run(3, Loops(1, 1))
    assert len({float(s.network.params["born"]) for s in states}) == 3
    assert not any(np.any(s.network.params["seen"]) for s in states)


def test_the_step_is_a_function_of_state_and_key():
    step, _ = make(Loops(3, 2))
    states, _ = run(4, Loops(3, 2))
    again, _ = step(states[2], REAL, KEY)
    assert tree.digest(again) == tree.digest(states[3])
    other, _ = step(states[2], REAL, jax.random.key(1))
    assert other.network.params["born"] != again.network.params["born"]


def test_images_move_by_momentum_and_stay_in_the_box_if_told():
    rate, momentum, std = 0.02, 0.5, (0.25,)
    tx = image_sgd(rate, momentum, std)
    states, _ = run(3, Loops(1, 1), image_tx=tx)
    # In normalised pixels the gradient is std times as long.
    start, velocity = np.asarray(IMAGE, np.float64) / 0.25, 0.0
    for _ in range(3):
        velocity = momentum * velocity + 0.25
        start = start - rate * velocity
    np.testing.assert_allclose(states[2].image, start * 0.25, rtol=1e-5, atol=1e-6)
    fast = image_sgd(20.0, momentum, std)
    assert run(1, Loops(1, 1), image_tx=fast)[0][0].image.min() < 0
    clipped = run(1, Loops(1, 1), image_tx=fast, clip=True)[0][0].image
    np.testing.assert_allclose(
        clipped, np.clip(IMAGE - 20.0 * 0.25**2, 0, 1), atol=1e-6
    )


def test_metrics_hold_the_length_of_the_gradient():
    _, (facts,) = run(1, Loops(1, 1))
    np.testing.assert_allclose(facts["grad_norm"], np.sqrt(IMAGE.size), rtol=1e-6)


@pytest.mark.parametrize("batch_size,batches,size", ((6, 1, 6), (4, 2, 3), (1, 6, 1)))
def test_an_epoch_sees_every_image_once(batch_size, batches, size):
    rows, labels = [], []

    def spy(network, batch, key):
        keep = lambda i, y: (rows.append(i), labels.append(y))
        jax.debug.callback(keep, batch.index, batch.label, ordered=True)
        return count_rows(network, batch, key)

    inner = jax.jit(lambda key: inner_loop(spy, fresh(key), IMAGE, key, 3, batch_size))
    network = inner(KEY)
    np.testing.assert_array_equal(network.params["seen"], np.full(6, 3.0))
    assert network.step == 3 * batches
    jax.effects_barrier()
    seen, label = np.asarray(rows), np.asarray(labels)
    assert seen.shape == (3 * batches, size)
    np.testing.assert_array_equal(label, seen // IPC)
    orders = np.sort(seen.reshape(3, -1), axis=1)
    np.testing.assert_array_equal(orders, np.tile(np.arange(6), (3, 1)))
    assert len(np.unique(seen.reshape(3, -1), axis=0)) > 1


def test_images_left_over_are_fewer_than_batches():
    inner = jax.jit(lambda key: inner_loop(count_rows, fresh(key), IMAGE, key, 30, 5))
    wide = inner(KEY)
    assert wide.step == 60 and jnp.sum(wide.params["seen"]) == 180
    four = jax.jit(
        lambda key: inner_loop(count_rows, fresh(key), IMAGE[:, :1], key, 30, 2)
    )(KEY)
    seen = np.asarray(four.params["seen"])
    # Three images in two batches of one: each waits in a third of the epochs.
    assert seen.sum() == 60 and seen[:3].min() >= 10 and not seen[3:].any()


def test_the_training_step_of_the_house_is_a_network_step():
    tx = optax.sgd(0.5)
    options = StepOptions("batch", 0.0, 0.0, 0, "batch")
    still = lambda keys, logits_fn, image, target: image
    unchanged = lambda key, batch: batch
    step = make_train_step(
        TinyNet(), tx, standard(), still, all_rows(), unchanged, options
    )
    start = create_state(variables_of(TinyNet()), tx, with_ema=False)
    run = jax.jit(lambda key: inner_loop(step, start, IMAGE, key, 40, 256))
    trained = run(KEY)
    logits = TinyNet().apply(
        {"params": trained.params}, IMAGE.reshape(-1, *SHAPE), train=True
    )
    labels = np.repeat(np.arange(CLASSES), IPC)
    assert trained.step == 40 and (np.argmax(logits, axis=1) == labels).all()


@pytest.mark.parametrize("ipc", LOOPS)
def test_loops_of_the_table(ipc):
    assert loops(ipc) == LOOPS[ipc]


def test_loops_beside_the_table():
    assert [loops(ipc) for ipc in (2, 5, 25, 100)] == [
        Loops(2, 50),
        Loops(5, 50),
        Loops(25, 20),
        Loops(50, 10),
    ]
    with pytest.raises(UserError, match="at least one image per class"):
        loops(0)


def test_noise_has_the_statistics_of_the_pixels():
    mean, std = np.float32([0.5, 0.45]), np.float32([0.1, 0.15])
    noise = noise_images(KEY, (10, 10, 8, 8, 2), mean, std)
    pixels = np.asarray(noise).reshape(-1, 2)
    assert pixels.min() >= 0 and pixels.max() <= 1
    np.testing.assert_allclose(pixels.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(pixels.std(0), std, atol=0.01)
