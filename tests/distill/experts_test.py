"""Experts keep what they were after each epoch; images learn from them on digits."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxrobust.distill.experts import (
    draw_segment,
    expert_path,
    flat,
    make_expert,
    open_experts,
    write_expert,
)
from jaxrobust.distill.images import image_sgd
from jaxrobust.distill.mtt import trajectory_match
from jaxrobust.distill.tesla import constant_memory_match
from jaxrobust.distill.trajectory import (
    flat_network,
    hard_labels,
    init_state,
    make_trajectory_step,
)
from jaxrobust.errors import UserError
from jaxrobust.objectives.curvature import curvature
from jaxrobust.objectives.standard import standard
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state
from jaxrobust.train_step import StepOptions, make_train_step
from tests.distill.digits_test import (
    CLASSES,
    NET,
    REAL,
    STD,
    fresh,
    real_images,
    scorer,
    train,
)
from tests.distill.digits_test import SHAPE as DIGIT
from tests.helpers import TinyNet, image_set, variables_of

KEY = jax.random.key(2)
IMAGES = image_set(10)


def born(key):
    """A network that is one random number and counts how often it saw each image."""
    params = {"born": jax.random.normal(key, (1,)), "seen": jnp.zeros(10)}
    return create_state({"params": params}, optax.identity(), with_ema=False)


def count_rows(network, batch, key):
    right = jnp.all(batch.image == jnp.asarray(IMAGES.image)[batch.index] / 255.0)
    right &= jnp.all(batch.label == jnp.asarray(IMAGES.label)[batch.index])
    seen = network.params["seen"].at[batch.index].add(jnp.where(right, 1.0, jnp.nan))
    return network.replace(params={**network.params, "seen": seen}), {}


def test_parameters_at_the_start_and_after_each_epoch():
    expert = jax.jit(make_expert(born, count_rows, 3, 4))
    kept = np.asarray(expert(KEY, IMAGES.image, IMAGES.label))
    assert kept.shape == (4, 11) and kept.dtype == np.float32
    assert len(set(kept[:, 0])) == 1
    # Ten images in three batches of three: one waits, another one each time.
    seen = kept[:, 1:]
    assert not seen[0].any()
    np.testing.assert_array_equal(np.diff(seen, axis=0).sum(1), [9, 9, 9])
    assert set(np.diff(seen, axis=0).ravel()) == {0, 1}
    again = expert(KEY, IMAGES.image, IMAGES.label)
    other = expert(jax.random.key(3), IMAGES.image, IMAGES.label)
    np.testing.assert_array_equal(again, kept)
    assert other[0, 0] != kept[0, 0]


def test_a_network_with_batchnorm_is_refused():
    tx = optax.sgd(0.1)
    model = TinyNet(norm=True)
    made = lambda key: create_state(variables_of(model), tx, with_ema=False)
    with pytest.raises(UserError, match="norm='instance'"):
        make_expert(made, count_rows, 1, 4)(KEY, IMAGES.image, IMAGES.label)


def trained(objective):
    """An expert of the house's own training step, f32[2,P]."""
    tx = optax.sgd(0.5)
    step = make_train_step(
        TinyNet(),
        tx,
        objective,
        lambda keys, logits_fn, image, target: image,
        all_rows(),
        lambda key, batch: batch,
        StepOptions("batch", 0.0, 0.0, 0, "batch"),
    )
    start = lambda key: create_state(variables_of(TinyNet()), tx, with_ema=False)
    return jax.jit(make_expert(start, step, 1, 10))(KEY, IMAGES.image, IMAGES.label)


def test_an_objective_changes_the_way_and_not_its_beginning():
    guard = curvature(2.0, 0.5, "squared", "gradient", "running")
    plain, flatter = trained(standard()), trained(guard)
    start = flat(create_state(variables_of(TinyNet()), optax.identity(), False))
    np.testing.assert_array_equal(plain[0], start)
    np.testing.assert_array_equal(flatter[0], start)
    # A step of 0.5 down the mean loss; penalised, it goes elsewhere.
    image, label = jnp.asarray(IMAGES.image) / 255, jnp.asarray(IMAGES.label)
    params = variables_of(TinyNet())["params"]

    def loss(params):
        log_p = jax.nn.log_softmax(TinyNet().apply({"params": params}, image, True))
        return -jnp.mean(log_p[jnp.arange(10), label])

    slope = ravel_pytree(jax.grad(loss)(params))[0]
    np.testing.assert_allclose(plain[1], start - 0.5 * slope, rtol=1e-4, atol=1e-6)
    assert np.abs(flatter[1] - plain[1]).max() > 1e-3


@pytest.fixture
def paths(tmp_path):
    """Two experts of 5 epochs and 3 parameters; entries say which, when, where."""
    made = [expert_path(tmp_path, number) for number in (0, 1)]
    for number, path in enumerate(made):
        rows = np.arange(6)[:, None] * 10 + np.arange(3) + 100 * number
        write_expert(path, jnp.asarray(rows, jnp.float32))
    return made


def test_segments_are_of_one_expert_and_a_given_length(paths):
    experts = open_experts(paths, num_params=3, expert_epochs=2, max_start=4)
    assert all(isinstance(params, np.memmap) for params in experts)
    seen = set()
    for step in range(60):
        start, goal = draw_segment(experts, 2, 4, seed=0, step=step)
        np.testing.assert_array_equal(goal, start + 20)
        np.testing.assert_array_equal(start - start[0], [0, 1, 2])
        seen.add(float(start[0]))
    assert seen == {0, 10, 20, 30, 100, 110, 120, 130}
    first, again = (draw_segment(experts, 2, 4, 5, 7) for _ in range(2))
    np.testing.assert_array_equal(first.start, again.start)


def test_files_that_do_not_serve_say_why(paths):
    with pytest.raises(UserError, match="5 epochs, segments reach epoch 6"):
        open_experts(paths, 3, expert_epochs=2, max_start=5)
    with pytest.raises(UserError, match="of another network"):
        open_experts(paths, 4, 2, 3)
    paths[1].write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be read"):
        open_experts(paths, 3, 2, 3)
    paths[1].unlink()
    with pytest.raises(UserError, match="cannot be read"):
        open_experts(paths, 3, 2, 3)


@cache
def digit_experts():
    """Two experts of six epochs, f32[7,P] each."""
    image = jnp.asarray(np.round(real_images() * 255), jnp.uint8)
    label = jnp.repeat(jnp.arange(CLASSES, dtype=jnp.int32), REAL)
    expert = jax.jit(make_expert(fresh, train, 6, 40))
    pixels = image.reshape(-1, *DIGIT)
    return [np.asarray(expert(jax.random.key(i), pixels, label)) for i in range(2)]


@pytest.mark.parametrize("method", (trajectory_match, constant_memory_match))
def test_images_that_match_trajectories_beat_as_many_real_ones(method):
    match = method(flat_network(NET, DIGIT), lambda key, image: image, 10, 256)
    image_tx, rate_tx = image_sgd(10.0, 0.5, STD), optax.sgd(1e-4, 0.5)
    step = jax.jit(
        make_trajectory_step(match, hard_labels, image_tx, rate_tx, 1e-2, True)
    )
    real = jnp.asarray(real_images()[:, :1])
    state, distance = init_state(real, 0.1, image_tx, rate_tx), []
    for number in range(150):
        segment = draw_segment(digit_experts(), 1, 3, seed=0, step=number)
        state, facts = step(state, segment, KEY)
        distance.append(float(facts["distance"]))
    assert np.mean(distance[-20:]) < 0.6 * np.mean(distance[:10])
    assert min(scorer()(state.image)) > 0.1 + max(scorer()(real))
    assert state.image.min() >= 0 and state.image.max() <= 1
