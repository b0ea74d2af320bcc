"""The compiled chunk of steps: a loop, compiled once, on any number of devices."""

import jax
import numpy as np
import pytest

from jaxrobust import sharding
from jaxrobust.loader import Feed, Pool, batches
from jaxrobust.objectives.standard import standard
from jaxrobust.train_step import Program
from jaxrobust.types import Batch, Subset
from tests.helpers import (
    TinyNet,
    assert_trees_close,
    assert_trees_equal,
    image_set,
    on_devices,
)
from tests.train_step_test import KEY, fresh, make_step

NET = TinyNet(norm=True)
POOL = Pool((image_set(40),))
SUBSET = Subset.uniform(np.arange(40))
STEP = make_step(net=NET, ema_decay=0.9)


def chunk(first_step, count, batch_size=8):
    return batches(SUBSET, 3, batch_size, first_step, count)


def run(program, feed, state, first_step, count):
    index, weight = chunk(first_step, count)
    return program(state, KEY, *feed(index), index, weight)


@pytest.fixture(scope="module")
def program(mesh):
    """One program for the tests of this file: most chunks have 3 steps."""
    return Program(STEP, mesh)


@pytest.fixture(scope="module")
def feed(mesh):
    """The pool on the device."""
    return Feed(POOL, mesh, 1.0)


def test_a_chunk_is_its_steps_one_by_one(program, feed):
    state, history = run(program, feed, fresh(NET), 0, 3)
    step, one_by_one = jax.jit(STEP), fresh(NET)
    for number, (index, weight) in enumerate(zip(*chunk(0, 3))):
        image = POOL.gather(index).astype(np.float32) / np.float32(255)
        batch = Batch(image, POOL.label[index], weight, index)
        one_by_one, seen = step(one_by_one, batch, KEY)
        for name, value in seen.items():
            np.testing.assert_allclose(history[name][number], value, rtol=1e-5)
    assert_trees_close(state, one_by_one, rtol=1e-5)
    assert all(value.shape == (3,) for value in history.values())


def test_a_stop_between_two_chunks_changes_no_bit(program, feed):
    ends = []
    for stopped in (False, True):
        state, _ = run(program, feed, fresh(NET), 0, 3)
        if stopped:
            state = sharding.replicate(jax.device_get(state), sharding.make_mesh(1))
        ends.append(run(program, feed, state, 3, 3))
    assert_trees_equal(*ends)


def test_one_compilation_serves_all_chunks_of_a_length(mesh, feed):
    program, state = (
        Program(make_step(standard(), net=TinyNet()), mesh),
        fresh(TinyNet()),
    )
    for first_step in (0, 3, 6):
        state, _ = run(program, feed, state, first_step, 3)
    assert program.compilations == 1 and program.take_compile_seconds() > 0
    assert program.take_compile_seconds() == 0
    run(program, feed, state, 9, 2)
    assert program.compilations == 2


def test_images_that_stay_on_the_host_train_the_same(program, feed, mesh):
    streaming = Feed(POOL, mesh, 0.0)
    ours, theirs = (run(program, f, fresh(NET), 0, 3) for f in (streaming, feed))
    assert_trees_close(ours, theirs, rtol=1e-5)


def test_the_state_is_donated(program, feed):
    state = fresh(NET)
    run(program, feed, state, 0, 3)
    assert state.params["Dense_0"]["kernel"].is_deleted()


def three_steps():
    """Losses of three steps over all devices, and the weights they leave."""
    mesh = sharding.make_mesh(0)
    feed, program = Feed(POOL, mesh, 1.0), Program(STEP, mesh)
    state = sharding.replicate(jax.device_get(fresh(NET)), mesh)
    key, losses = sharding.replicate_key(KEY, mesh), []
    for first_step in range(3):
        index, weight = chunk(first_step, 1)
        state, history = program(state, key, *feed(index), index, weight)
        losses += np.asarray(history["loss"]).tolist()
    assert program.compilations == 1
    arrays = {"params": state.params, "batch_stats": state.batch_stats}
    return {
        "devices": mesh.devices.size,
        "losses": losses,
        "arrays": [np.asarray(x).ravel().tolist() for x in jax.tree.leaves(arrays)],
    }


def test_eight_devices_compute_what_one_does():
    eight, one = on_devices(8, three_steps), three_steps()
    assert (eight["devices"], one["devices"]) == (8, 1)
    np.testing.assert_allclose(eight["losses"][0], one["losses"][0], rtol=1e-6)
    # Later steps may differ where the sign of a gradient near zero turns.
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-3)
    for ours, theirs in zip(eight["arrays"], one["arrays"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)
