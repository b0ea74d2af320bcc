"""Optimisers against hand-written loops, schedules at their corners."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim
from jaxrobust.errors import UserError
from tests.helpers import assert_trees_close

PARAMS = {
    "kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
    "bias": jnp.array([0.3, -0.7]),
}
SGD = {
    "name": "sgd",
    "learning_rate": 0.1,
    "schedule": {"name": "constant"},
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.05,
    "decay_norm_and_bias": True,
    "grad_clip": 0.0,
}
ADAMW = {
    "name": "adamw",
    "learning_rate": 0.1,
    "schedule": {"name": "constant"},
    "weight_decay": 0.05,
    "grad_clip": 0.0,
}


def gradient(params, step):
    """Any gradient will do, so long as it changes."""
    return {name: 0.3 * jnp.sin(w) + 0.1 * step for name, w in params.items()}


def run(spec, steps=3, params=PARAMS):
    tx = optim.make_optimiser(spec, total_steps=100)
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(gradient(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def sgd_by_hand(spec, steps=3, decayed=("kernel", "bias")):
    """The documented update of torch.optim.SGD, in float64."""
    params = {k: np.asarray(v, np.float64) for k, v in PARAMS.items()}
    velocity = dict.fromkeys(params)
    mu, rate = spec["momentum"], spec["learning_rate"]
    for step in range(steps):
        grads = {k: 0.3 * np.sin(w) + 0.1 * step for k, w in params.items()}
        if spec["grad_clip"]:
            size = np.sqrt(sum((g**2).sum() for g in grads.values()))
            scale = min(1.0, spec["grad_clip"] / size)
            grads = {k: g * scale for k, g in grads.items()}
        for k in params:
            g = grads[k] + (spec["weight_decay"] * params[k] if k in decayed else 0)
            if mu:
                velocity[k] = g if velocity[k] is None else mu * velocity[k] + g
                g = g + mu * velocity[k] if spec["nesterov"] else velocity[k]
            params[k] = params[k] - rate * g
    return params


@pytest.mark.parametrize(
    "change",
    (
        {},
        {"nesterov": False},
        {"momentum": 0.0, "nesterov": False},
        {"weight_decay": 0.0},
        {"grad_clip": 0.2},
    ),
)
def test_sgd_is_that_of_pytorch(change):
    spec = SGD | change
    assert_trees_close(run(spec), sgd_by_hand(spec), rtol=2e-6)


def test_sgd_can_leave_vectors_out_of_the_decay():
    spec = SGD | {"decay_norm_and_bias": False}
    assert_trees_close(run(spec), sgd_by_hand(spec, decayed=("kernel",)), rtol=2e-6)


def test_adamw_decays_matrices_apart_from_the_gradient():
    free = run(ADAMW | {"weight_decay": 0.0}, steps=1)
    decayed = run(ADAMW, steps=1)
    np.testing.assert_array_equal(free["bias"], decayed["bias"])
    gap = free["kernel"] - decayed["kernel"]
    np.testing.assert_allclose(gap, 0.1 * 0.05 * PARAMS["kernel"], rtol=1e-4)
    # Adam's first step is the learning rate in the direction of the sign.
    moved = PARAMS["bias"] - free["bias"]
    np.testing.assert_allclose(moved, 0.1 * np.sign(PARAMS["bias"]), rtol=1e-4)


def schedule(name, total=100, **options):
    return optim.make_schedule({"name": name, **options}, 0.4, total)


def at(rate, *steps):
    return [float(rate(step)) for step in steps]


def test_constant_schedule():
    assert at(schedule("constant"), 0, 99) == pytest.approx([0.4, 0.4])


def test_cosine_warms_up_peaks_and_ends():
    rate = schedule("cosine", warmup_percent=10.0, final_ratio=0.1)
    expected = [0.0, 0.2, 0.4, 0.22, 0.04, 0.04]
    assert at(rate, 0, 5, 10, 55, 100, 120) == pytest.approx(expected, abs=1e-6)
    values = at(rate, *range(10, 101))
    assert values == sorted(values, reverse=True)


def test_cosine_without_warm_up_starts_at_the_peak():
    rate = schedule("cosine", warmup_percent=0.0, final_ratio=0.0)
    expected = [0.4, 0.2, 0.0]
    assert at(rate, 0, 50, 100) == pytest.approx(expected, abs=1e-6)


def test_piecewise_drops_at_its_percents():
    options = {"drop_percents": (50.0, 75.0), "drop_ratio": 0.1}
    rate = schedule("piecewise", **options)
    expected = [0.4, 0.4, 0.04, 0.04, 0.004, 0.004]
    assert at(rate, 0, 49, 50, 74, 75, 99) == pytest.approx(expected)


def test_piecewise_keeps_all_drops_of_a_short_run():
    # Both drops fall on step 2 of 3.
    options = {"drop_percents": (50.0, 75.0), "drop_ratio": 0.1}
    rate = schedule("piecewise", total=3, **options)
    assert at(rate, 0, 1, 2, 3) == pytest.approx([0.4, 0.4, 0.004, 0.004])


def test_one_cycle_goes_up_and_down():
    rate = schedule("one_cycle", warmup_percent=40.0)
    expected = [0.0, 0.2, 0.4, 0.2, 0.0]
    assert at(rate, 0, 20, 40, 70, 100) == pytest.approx(expected, abs=1e-6)


def test_one_compiled_update_serves_runs_of_every_length():
    spec = SGD | {"schedule": {"name": "one_cycle", "warmup_percent": 50.0}}
    update = jax.jit(optim.make_optimiser(spec, 1).update)
    for total in (10, 40):
        tx = optim.make_optimiser(spec, total)
        state = own = tx.init(PARAMS)
        for step in range(3):
            slope = gradient(PARAMS, step)
            moved, state = update(slope, state, PARAMS)
            expected, own = tx.update(slope, own, PARAMS)
            assert_trees_close(moved, expected, rtol=1e-5)
    assert update._cache_size() == 1


@pytest.mark.parametrize("total", (1, 2, 3))
@pytest.mark.parametrize("name", sorted(optim.SCHEDULES))
def test_every_schedule_survives_a_run_of_few_steps(name, total):
    options = {
        "constant": {},
        "cosine": {"warmup_percent": 100.0, "final_ratio": 0.0},
        "one_cycle": {"warmup_percent": 0.0},
        "piecewise": {"drop_percents": (50.0,), "drop_ratio": 0.1},
    }
    values = at(schedule(name, total=total, **options[name]), *range(total + 1))
    assert all(0 <= v <= 0.4 + 1e-6 for v in values)


def test_ema_follows_its_formula():
    old, new = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}
    for step, rate in ((0, 0.1), (8, 0.5), (10_000, 0.99)):
        found = optim.update_ema(old, new, 0.99, jnp.int32(step))
        expected = rate * np.array([1.0, 2.0]) + (1 - rate) * np.array([3.0, -2.0])
        np.testing.assert_allclose(found["w"], expected, rtol=1e-6)


def test_awp_moves_every_kernel_by_gamma_of_its_norm_along_the_gradient():
    slope = gradient(PARAMS, 1)
    moved = jax.jit(optim.perturb_weights)(PARAMS, slope, 0.01)
    np.testing.assert_array_equal(moved["bias"], PARAMS["bias"])
    delta = np.asarray(moved["kernel"] - PARAMS["kernel"])
    size = 0.01 * np.linalg.norm(PARAMS["kernel"])
    np.testing.assert_allclose(np.linalg.norm(delta), size, rtol=1e-4)
    along = slope["kernel"] / np.linalg.norm(slope["kernel"])
    np.testing.assert_allclose(delta, size * along, atol=1e-6)


def test_awp_without_gradient_or_gamma_is_the_identity():
    flat = jax.tree.map(jnp.zeros_like, PARAMS)
    for moved in (
        optim.perturb_weights(PARAMS, flat, 0.01),
        optim.perturb_weights(PARAMS, gradient(PARAMS, 1), 0.0),
    ):
        np.testing.assert_array_equal(moved["kernel"], PARAMS["kernel"])


def test_an_unknown_optimiser_or_schedule_lists_the_known_ones():
    with pytest.raises(UserError, match="choose from adamw, sgd"):
        optim.make_optimiser(SGD | {"name": "sdg"}, 10)
    with pytest.raises(UserError, match="constant, cosine, one_cycle, piecewise"):
        schedule("linear")
    with pytest.raises(UserError, match="momentum"):
        optim.make_optimiser(SGD | {"momentun": 0.9}, 10)
