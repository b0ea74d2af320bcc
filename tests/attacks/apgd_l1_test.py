"""APGD in l1: shrinking balls and sparse steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.apgd import apgd_machine
from jaxrobust.attacks.apgd_l1 import largest_signs, stages
from jaxrobust.attacks.machine import Work, fooled
from jaxrobust.threat import ThreatModel
from tests.helpers import SHAPE, image_keys, random_images, random_weight

COUNT, STEPS, EPS = 8, 20, 0.6
IMAGE = jnp.asarray(random_images(COUNT))
KEYS = image_keys(np.arange(COUNT))
THREAT = ThreatModel(EPS, "l1")


def network(x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ random_weight(classes=8))
    return hidden @ random_weight(1, 3, (8, 1, 1))


LABEL = jnp.argmax(network(IMAGE), axis=1).astype(jnp.int32)
WORK = Work(KEYS, IMAGE, LABEL, LABEL)


@pytest.fixture(scope="module")
def history():
    """The state before each step and the last one, [STEPS + 4, ...]: none stops."""
    machine = apgd_machine(THREAT, "cross_entropy", STEPS, 0.75, 1)

    def body(state, position):
        positions = jnp.full(COUNT, position, jnp.int32)
        return machine.step(WORK, network, state, positions), state

    @jax.jit
    def run():
        numbers = jnp.arange(machine.num_steps)
        last, before = jax.lax.scan(body, machine.start(WORK), numbers)
        return jax.tree.map(lambda x, y: jnp.append(x, y[None], 0), before, last)

    return run()


def test_stages_of_a_hundred_steps():
    table = stages(100)
    assert len(table.radius) == 103
    np.testing.assert_array_equal(np.flatnonzero(table.opens), [0, 31, 62])
    np.testing.assert_array_equal(np.flatnonzero(table.closes), [30, 61])
    np.testing.assert_array_equal(table.radius, [3.0] * 31 + [2.0] * 31 + [1.0] * 41)
    np.testing.assert_array_equal(table.radius_next[:-1], table.radius[1:])
    np.testing.assert_array_equal(table.counts, np.arange(103) >= 62)
    np.testing.assert_array_equal(table.checkpoint, ~np.asarray(table.opens))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10, 130])
def test_stages_share_the_steps(num_steps):
    table = stages(num_steps)
    lengths = np.diff([*np.flatnonzero(table.opens), len(table.radius)]) - 1
    assert lengths.min() >= 1 and lengths[0] == lengths[1]
    if num_steps > 2:
        assert lengths.sum() == num_steps


def test_every_point_lies_in_the_ball_of_its_stage(history):
    table = stages(STEPS)
    for x, radius in zip(history.x, table.radius):
        distance = np.asarray(THREAT.distance(x, IMAGE))
        assert distance.max() <= radius * EPS * (1 + 1e-5)
        # The point is as far as it may go: the larger balls are really used.
        assert distance.max() > 0.9 * radius * EPS
        assert x.min() >= 0 and x.max() <= 1


def test_only_the_last_stage_finds(history):
    counts = np.append(False, np.asarray(stages(STEPS).counts))
    wrong = np.stack([fooled(network(x), LABEL) for x in history.x])
    # The larger balls do fool the network, and that must not count.
    assert wrong[:-1][~counts[1:]].any()
    np.testing.assert_array_equal(history.found[1:], wrong[:-1] & counts[1:, None])


def test_a_stage_begins_at_the_projected_best_point(history):
    for opening, radius in ((7, 2.0), (14, 1.0)):
        best = history.x_best[opening]
        start = ThreatModel(radius * EPS, "l1").project(best, IMAGE)
        np.testing.assert_allclose(history.x[opening], start, atol=1e-6)


def test_points_become_sparse(history):
    changed = np.sum(np.asarray(history.x_best[-1] != IMAGE), (1, 2, 3))
    assert changed.max() < np.prod(SHAPE) / 2


def test_the_step_size_shrinks_to_a_tenth_of_the_radius(history):
    size = np.asarray(history.step_size[1:])
    radius = EPS * np.asarray(stages(STEPS).radius)[:, None]
    assert (size <= radius * (1 + 1e-6)).all()
    assert (size >= radius / 10 * (1 - 1e-6)).all()
    assert size[-1].min() < 0.3 * EPS


@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_largest_signs_equal_a_sort(count):
    slope = np.random.default_rng(0).normal(size=(COUNT, *SHAPE)).astype(np.float32)
    slope[0] = 0.0
    slope[1] *= 1e-30
    slope[2] = np.where(slope[2] > 0, 1.0, -0.25)
    slope[3, 0] = 0.0
    size = np.abs(slope).reshape(COUNT, -1)
    least = np.sort(size, 1)[:, ::-1][:, max(count, 1) - 1]
    wanted = np.sign(slope) * (np.abs(slope) >= least[:, None, None, None])
    taken = largest_signs(jnp.asarray(slope), jnp.full(COUNT, count))
    np.testing.assert_array_equal(taken, wanted)


def test_each_row_has_its_own_count():
    slope = np.random.default_rng(1).normal(size=(COUNT, *SHAPE)).astype(np.float32)
    taken = largest_signs(jnp.asarray(slope), jnp.arange(COUNT) + 1)
    moved = np.abs(np.asarray(taken)).sum((1, 2, 3))
    np.testing.assert_array_equal(moved, np.arange(COUNT) + 1)
