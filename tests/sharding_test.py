"""Layouts over devices; the arithmetic over many of them is in train_step_test.py."""

import jax
import numpy as np
import pytest

from jaxrobust import sharding
from jaxrobust.errors import UserError
from tests.helpers import on_devices


def test_too_many_devices_are_the_users_mistake():
    with pytest.raises(UserError, match=r"1000 devices asked for, \d+ found"):
        sharding.make_mesh(1000)
    with pytest.raises(UserError, match="-1 devices asked for"):
        sharding.make_mesh(-1)


def test_replicated_values_and_keys_are_what_they_were(mesh):
    tree = {"a": np.arange(6).reshape(2, 3), "b": np.float32(2)}
    for name, value in sharding.replicate(tree, mesh).items():
        np.testing.assert_array_equal(value, tree[name])
        assert value.sharding == sharding.replicated(mesh)
    key = jax.random.key(5)
    copy = sharding.replicate_key(key, mesh)
    assert jax.random.key_impl(copy) == jax.random.key_impl(key)
    np.testing.assert_array_equal(jax.random.key_data(copy), jax.random.key_data(key))


def test_gathering_compiles_once_for_a_layout(mesh):
    values = sharding.replicate(np.arange(7), mesh)
    before = sharding.gather._cache_size()
    for _ in range(3):
        np.testing.assert_array_equal(sharding.gather(values, mesh), np.arange(7))
    assert sharding.gather._cache_size() == before + 1


def layouts():
    """What eight devices hold."""
    mesh, half = sharding.make_mesh(0), sharding.make_mesh(4)
    values = np.arange(16)
    split = jax.jit(lambda x: sharding.split_batch(x + 1, mesh))(values)
    back = jax.jit(lambda x: sharding.constrain_replicated(x - 1, mesh))(split)
    try:
        sharding.check_batch_size(20, mesh)
        message = ""
    except UserError as error:
        message = str(error)
    sharding.check_batch_size(24, mesh)
    return {
        "sizes": [mesh.devices.size, half.devices.size],
        "pieces": [piece.data.tolist() for piece in split.addressable_shards],
        "copies": [piece.data.tolist() for piece in back.addressable_shards],
        "message": message,
    }


def test_batches_are_split_evenly_and_results_copied():
    found = on_devices(8, layouts)
    assert found["sizes"] == [8, 4]
    assert found["pieces"] == np.arange(1, 17).reshape(8, 2).tolist()
    assert found["copies"] == [list(range(16))] * 8
    assert found["message"] == ("batch_size 20 does not divide over 8 devices: try 16")


def test_alone_there_is_no_group_to_join(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    assert not sharding.start_distributed("", 1, 0)
    assert sharding.is_lead()


def test_a_process_number_out_of_range_is_the_users_mistake():
    for number in (2, -1):
        with pytest.raises(UserError, match="its own number from 0"):
            sharding.start_distributed("127.0.0.1:1", 2, number)


@pytest.mark.parametrize(
    "name,value", (("SLURM_NTASKS", "2"), ("TPU_WORKER_HOSTNAMES", "a,b"))
)
def test_a_cluster_is_recognised(monkeypatch, name, value):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda: joined.append(1))
    monkeypatch.setenv(name, value)
    assert sharding.start_distributed("", 1, 0) and joined
