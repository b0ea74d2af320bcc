"""Large weights laid over the devices between steps: the same training, a part of the
memory."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrobust import sharding
from jaxrobust.checkpoint import Checkpointer
from jaxrobust.loader import Feed, Pool, batches
from jaxrobust.train_step import Program
from jaxrobust.types import Subset
from tests.helpers import TinyNet, assert_trees_equal, image_set, on_devices
from tests.train_step_test import KEY, fresh, make_step

NET = TinyNet(norm=True, hidden=2048)
STEP = make_step(net=NET, ema_decay=0.9)
STEPS = 3


def train(mesh, lay):
    """Losses, the state after three steps in two chunks, and the program."""
    feed, program = Feed(Pool((image_set(40),)), mesh, 1.0), Program(STEP, mesh)
    state = lay(jax.device_get(fresh(NET)), mesh)
    key, losses = sharding.replicate_key(KEY, mesh), []
    for first_step, count in ((0, 2), (2, 1)):
        some = Subset.uniform(np.arange(40))
        index, weight = batches(some, 3, 8, first_step, count)
        state, history = program(state, key, *feed(index), index, weight)
        losses += np.asarray(history["loss"]).tolist()
    return losses, state, program


def on_one(leaf):
    """Bytes of an array on the first device."""
    return leaf.addressable_shards[0].data.nbytes


def both_ways():
    """The same three steps with copies and with parts."""
    mesh, found = sharding.make_mesh(0), {}
    for lay in (sharding.replicate, sharding.spread):
        losses, state, program = train(mesh, lay)
        kernel = lambda tree: tree["Dense_0"]["kernel"]
        large = {
            "params": kernel(state.params),
            "moment": kernel(state.opt_state[0].trace),
            "ema": kernel(state.ema["params"]),
        }
        arrays = jax.tree.leaves(sharding.whole(state.params, mesh))
        numbers = [np.asarray(x) for x in arrays]
        found[lay.__name__] = {
            "losses": losses,
            "bytes": {k: [on_one(v), v.nbytes] for k, v in large.items()},
            "all": sum(on_one(x) for x in jax.tree.leaves(state)),
            "small": on_one(state.params["Dense_0"]["bias"]),
            "whole": all(x.is_fully_replicated for x in arrays),
            "arrays": jax.tree.map(lambda x: x.ravel()[:500].tolist(), numbers),
            "compilations": program.compilations,
        }
    return found


@pytest.fixture(scope="module")
def four():
    found = on_devices(4, both_ways)
    return found["replicate"], found["spread"]


def test_spread_weights_train_the_same(four):
    copied, spread = four
    np.testing.assert_allclose(spread["losses"][0], copied["losses"][0], rtol=1e-6)
    np.testing.assert_allclose(spread["losses"], copied["losses"], rtol=1e-5)
    for ours, theirs in zip(spread["arrays"], copied["arrays"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_device_holds_a_quarter_of_large_arrays_and_all_of_small_ones(four):
    copied, spread = four
    for name, (part, all_) in spread["bytes"].items():
        assert 4 * part == all_ == copied["bytes"][name][0] == 4 * 16 * 2048, name
    assert spread["small"] == copied["small"] == 4 * 2048
    assert spread["all"] < 0.5 * copied["all"]
    assert spread["whole"] and spread["compilations"] == copied["compilations"] == 2


def test_what_is_laid_over_the_devices():
    found = on_devices(4, layouts)
    assert found == {
        "(8, 4096)": [8, 1024],  # the longest axis
        "(4096, 8)": [1024, 8],
        "(30000, 2)": [7500, 2],
        "(30001, 4)": [30001, 1],  # the longest that divides
        "(30001, 3)": [30001, 3],  # none does
        "(16, 16)": [16, 16],  # small
        "()": [],
    }


def layouts():
    """{shape: the shape of a device's part}"""
    mesh, found = sharding.make_mesh(0), {}
    for shape in ((8, 4096), (4096, 8), (30000, 2), (30001, 4), (30001, 3), (16, 16)):
        value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        laid = sharding.spread(value, mesh)
        np.testing.assert_array_equal(laid, value)
        found[str(shape)] = laid.addressable_shards[0].data.shape
    found["()"] = sharding.spread(np.float32(1), mesh).addressable_shards[0].data.shape
    return found


def saves():
    """A checkpoint of spread weights, and the same arrays as numbers."""
    folder, mesh = Path(os.environ["FOLDER"]), sharding.make_mesh(0)
    _, state, _ = train(mesh, sharding.spread)
    checkpoints = Checkpointer(folder / "stage", track_best=False)
    checkpoints.save(STEPS, state, {}, None)
    checkpoints.close()
    flat = [np.asarray(x) for x in jax.tree.leaves(sharding.whole(state, mesh))]
    np.savez(folder / "arrays.npz", *flat)


def test_a_checkpoint_of_four_devices_is_read_by_one(mesh, tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    on_devices(4, saves)
    like = sharding.replicate(jax.device_get(fresh(NET)), mesh)
    reader = Checkpointer(tmp_path / "stage", track_best=False, read_only=True)
    found = reader.restore_latest(like)
    reader.close()
    assert found is not None
    state, _ = found
    with np.load(tmp_path / "arrays.npz") as stored:
        assert_trees_equal(jax.tree.leaves(state), list(stored.values()))
    assert int(state.step) == STEPS
