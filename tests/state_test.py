"""Networks as functions of images: which statistics they use, which they update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import state as states
from jaxrobust.errors import UserError
from tests.helpers import (
    SHAPE,
    TinyNet,
    assert_trees_close,
    assert_trees_equal,
    random_images,
    variables_of,
)

NET = TinyNet(norm=True)
VARIABLES = variables_of(NET)
IMAGE = random_images(8)
TX = optax.sgd(0.1, momentum=0.9)


PARAMS = jax.tree.map(np.asarray, VARIABLES["params"])


def hidden(image):
    """What the BatchNorm of `NET` sees."""
    flat = np.reshape(image, (len(image), -1))
    return flat @ PARAMS["Dense_0"]["kernel"] + PARAMS["Dense_0"]["bias"]


def head(normed):
    norm, dense = PARAMS["BatchNorm_0"], PARAMS["Dense_1"]
    x = np.tanh(normed * norm["scale"] + norm["bias"])
    return x @ dense["kernel"] + dense["bias"]


def statistics(mode):
    if mode == "batch":
        seen = hidden(IMAGE)
        return seen.mean(0), seen.var(0)
    stats = VARIABLES["batch_stats"]["BatchNorm_0"]
    return np.asarray(stats["mean"]), np.asarray(stats["var"])


@pytest.mark.parametrize("mode", states.BN_MODES)
def test_bind_uses_the_statistics_that_it_names(mode):
    logits = jax.jit(lambda f, x: f(x))(states.bind(NET, VARIABLES, mode), IMAGE)
    mean, var = statistics(mode)
    expected = head((hidden(IMAGE) - mean) / np.sqrt(var + 1e-5))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_running_statistics_make_rows_independent():
    logits_fn = states.bind(NET, VARIABLES, "running")
    np.testing.assert_allclose(logits_fn(IMAGE)[:1], logits_fn(IMAGE[:1]), atol=1e-6)


def test_a_bound_network_is_data_so_one_program_serves_all_checkpoints():
    traces = []

    @jax.jit
    def run(logits_fn, image):
        traces.append(1)
        return logits_fn(image)

    for seed in (0, 1):
        run(states.bind(TinyNet(norm=True), variables_of(NET, seed), "running"), IMAGE)
    assert len(traces) == 1
    assert len(jax.tree.leaves(states.bind(NET, VARIABLES, "batch"))) == len(
        jax.tree.leaves(VARIABLES)
    )


def test_unknown_mode_lists_the_known_ones():
    with pytest.raises(UserError, match="choose from batch, running"):
        states.bind(NET, VARIABLES, "eval")


def create(seed=0, with_ema=True, model=NET):
    init = jax.jit(states.init_variables, static_argnums=(0, 1))
    variables = init(model, SHAPE, jax.random.key(seed))
    return states.create_state(variables, TX, with_ema)


def test_a_fresh_state_is_a_function_of_its_key():
    state = create()
    assert state.step.dtype == jnp.int32 and int(state.step) == 0
    assert_trees_equal(state.params, create().params)
    kernel = state.params["Dense_0"]["kernel"]
    assert not np.array_equal(kernel, create(seed=1).params["Dense_0"]["kernel"])


def test_averages_start_at_the_weights_in_memory_of_their_own():
    state = create()
    assert_trees_equal(state.ema["params"], state.params)
    assert_trees_equal(state.ema["batch_stats"], state.batch_stats)
    # Donating a state whose leaves share a buffer would fail.
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert int(step(state).step) == 1


def test_evaluation_uses_the_averages_where_they_are_kept():
    state = create()
    moved = state.replace(params=jax.tree.map(lambda w: w + 1, state.params))
    assert_trees_equal(states.eval_variables(moved), state.ema)
    plain = create(with_ema=False)
    assert plain.ema == {}
    assert_trees_equal(states.eval_variables(plain), states.train_variables(plain))


def test_a_network_without_statistics_has_none():
    state = create(model=TinyNet())
    assert state.batch_stats == {}
    forward = states.forward_fn(TinyNet(), state.params, state.batch_stats)
    logits, stats = forward(IMAGE, None)
    assert stats == {}
    frozen = states.bind(TinyNet(), states.train_variables(state), "running")
    np.testing.assert_allclose(frozen(IMAGE), logits, atol=1e-6)


def test_forward_moves_the_statistics_it_is_given():
    params, start = VARIABLES["params"], VARIABLES["batch_stats"]
    forward = states.forward_fn(NET, params, start)
    _, first = forward(IMAGE, None)
    seen = hidden(IMAGE)
    expected = {
        "mean": 0.9 * start["BatchNorm_0"]["mean"] + 0.1 * seen.mean(0),
        "var": 0.9 * start["BatchNorm_0"]["var"] + 0.1 * seen.var(0),
    }
    assert_trees_close(dict(first["BatchNorm_0"]), expected, rtol=1e-4)
    _, second = forward(IMAGE, first)
    twice = 0.9 * first["BatchNorm_0"]["mean"] + 0.1 * seen.mean(0)
    np.testing.assert_allclose(second["BatchNorm_0"]["mean"], twice, rtol=1e-4)
    _, again = forward(IMAGE, None)
    assert_trees_equal(again, first)
