"""APGD: its schedule, closed forms, and rows that each stand at their own step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.apgd import apgd, apgd_component, checkpoints
from jaxrobust.attacks.machine import Work, advance, where_rows
from jaxrobust.errors import UserError
from jaxrobust.threat import ThreatModel
from tests.helpers import SHAPE, image_keys, linear_logits, random_images, random_weight

COUNT = 6
IMAGE = jnp.full((COUNT, *SHAPE), 0.5)
LABEL = jnp.zeros(COUNT, jnp.int32)
KEYS = image_keys(np.arange(COUNT))
WEIGHT = random_weight(classes=2)
SLOPE = (WEIGHT[:, 1] - WEIGHT[:, 0]).reshape(SHAPE)
SAFE = jnp.asarray([100.0, 0.0])[None]
"""A bias that no eps overcomes, so that no row ends early."""
DUAL = {
    "linf": np.abs(SLOPE).sum(),
    "l2": np.sqrt((SLOPE**2).sum()),
    "l1": np.abs(SLOPE).max(),
}
EPS = {"linf": 0.1, "l2": 0.3, "l1": 0.4}


def solve(goal, norm, bias, num_steps=60, num_restarts=1):
    """x_adv of a linear two-class network."""
    attack = apgd(ThreatModel(EPS[norm], norm), goal, num_steps, num_restarts, 0.75)
    return jax.jit(lambda: attack(KEYS, linear_logits(WEIGHT, bias), IMAGE, LABEL))()


def test_checkpoints_of_the_paper():
    windows = checkpoints(100)
    steps = np.flatnonzero(windows)
    np.testing.assert_array_equal(steps, [21, 40, 56, 69, 79, 86, 92, 98])
    np.testing.assert_array_equal(windows[steps], [22, 19, 16, 13, 10, 7, 6, 6])


def test_checkpoints_of_few_steps():
    # Windows of 2, then 1: no rounding to 0 steps.
    np.testing.assert_array_equal(checkpoints(10), [0, 2, *[1] * 8])
    np.testing.assert_array_equal(checkpoints(1), [1])


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("goal", ["cross_entropy", "margin"])
def test_a_linear_network_is_solved(goal, norm):
    x = solve(goal, norm, SAFE if goal == "margin" else SAFE / 20)
    gain = np.sum((np.asarray(x) - 0.5) * SLOPE, (1, 2, 3))
    best = EPS[norm] * DUAL[norm]
    if norm == "l1":
        # ceil(2 / 1.5) = 2: the method never leaves the last pair of pixel values.
        assert gain.max() <= best * 1.001
        best = EPS[norm] * np.sort(np.abs(SLOPE).ravel())[-2:].mean()
        assert gain.min() >= best * 0.998
    else:
        np.testing.assert_allclose(gain, best, rtol=2e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_row_is_fooled_where_eps_reaches_the_boundary(norm):
    clean = np.sum(0.5 * SLOPE)
    gain = EPS[norm] * DUAL[norm]
    for share, falls in ((0.98, True), (1.02, False)):
        # The margin of the image is -share * gain.
        bias = jnp.asarray([clean + share * gain, 0.0])[None]
        logits = linear_logits(WEIGHT, bias)(solve("margin", norm, bias))
        assert np.all((losses.margin(logits, LABEL) > 0) == falls)


@pytest.mark.parametrize("goal,least", [("dlr", 3), ("dlr_targeted", 4)])
def test_a_goal_asks_for_its_classes(goal, least):
    attack = apgd(ThreatModel(0.1, "linf"), goal, 3, 1, 0.75)
    few = linear_logits(random_weight(classes=least - 1))
    with pytest.raises(UserError, match=f"needs {least} classes"):
        attack(KEYS, few, IMAGE, LABEL)
    attack(KEYS, linear_logits(random_weight(classes=least)), IMAGE, LABEL)


def test_an_unknown_goal_is_refused():
    with pytest.raises(UserError, match="unknown goal of apgd 'dlrr'"):
        apgd(ThreatModel(0.1, "linf"), "dlrr", 3, 1, 0.75)


def a_network(x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ random_weight(classes=8))
    return hidden @ random_weight(1, 4, (8, 1, 1)) + 20.0 * jnp.eye(4)[:1]


@pytest.mark.parametrize("norm", EPS)
def test_rows_at_different_positions_end_the_same(norm):
    component = apgd_component("apgd", "dlr_targeted", 12, 1)
    machine = component.machine(ThreatModel(EPS[norm], norm))
    image = jnp.asarray(random_images(COUNT))
    work = Work(KEYS, image, LABEL, jnp.ones(COUNT, jnp.int32))
    zero = jnp.zeros(COUNT, jnp.int32)

    @jax.jit
    def go(state, position, steps):
        return advance(machine, a_network, work, state, position, steps, 0)[:2]

    start = machine.start(work)
    plain, _ = go(start, zero, machine.num_steps)
    # Every other row is 5 steps ahead when its neighbours begin.
    ahead = jnp.arange(COUNT) % 2 == 0
    state, position = go(start, zero, 5)
    state = jax.tree.map(lambda new, old: where_rows(ahead, new, old), state, start)
    position = jnp.where(ahead, position, 0)
    early, position = go(state, position, machine.num_steps - 5)
    late, position = go(early, position, 5)
    np.testing.assert_array_equal(position, machine.num_steps)
    mixed = jnp.where(ahead, early.loss_best, late.loss_best)
    np.testing.assert_allclose(mixed, plain.loss_best, rtol=1e-6)
    assert len(np.unique(plain.loss_best)) == COUNT


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_lies_on_the_surface(norm):
    threat = ThreatModel(EPS[norm], norm)
    machine = apgd_component("apgd", "margin", 3, 1).machine(threat)
    state = machine.start(Work(KEYS, IMAGE, LABEL, LABEL))
    np.testing.assert_allclose(threat.distance(state.x, IMAGE), EPS[norm], rtol=1e-5)


def test_gradients_of_a_random_network_are_averaged():
    # Each draw of the network goes up or down: only the mean of many points up.
    def noisy(x, keys):
        noise = jax.vmap(jax.random.normal)(keys)
        scale = (1.0 + 3.0 * noise)[:, None]
        return jnp.concatenate([scale * 0, scale * jnp.sum(x, (1, 2, 3))[:, None]], 1)

    def step_up(eot):
        component = apgd_component("apgd", "margin", 1, 1, eot=eot)
        machine = component.machine(ThreatModel(0.1, "linf"))
        assert machine.forwards == machine.backwards == eot
        work = Work(KEYS, IMAGE, LABEL, LABEL)
        position = jnp.zeros(COUNT, jnp.int32)
        state = machine.step(work, noisy, machine.start(work), position)
        return np.all(np.asarray(state.x) > 0.55, (1, 2, 3))

    assert step_up(50).all() and not step_up(2).all()
