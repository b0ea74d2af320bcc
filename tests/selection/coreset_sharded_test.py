"""Coresets on eight devices: classes apart, the picks those of one device."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrobust import sharding
from jaxrobust.selection.craig import craig
from jaxrobust.selection.gradmatch import gradmatch
from tests.helpers import on_devices
from tests.selection.gradients import clustered


def both_ways():
    """Picks on one device and on eight, by method."""
    mesh, key = sharding.make_mesh(0), jax.random.key(0)
    factors, _ = clustered(240, classes=10, seed=1)
    sizes = (30, 30, 30, 30, 30, 30, 30, 15, 10, 5)
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(10), sizes))
    layout = NamedSharding(mesh, PartitionSpec(sharding.AXIS))
    split = jax.device_put(factors, layout)
    found = {"devices": mesh.devices.size}
    for method in (craig, gradmatch):
        alone = method(factors, label, 60, key)
        # With room for one class at a time, and for all.
        for limit in (12 * 31**2, 2**30):
            apart = method(split, label, 60, key, max_bytes=limit, mesh=mesh)
            pair = [[p.index.tolist(), p.weight.tolist()] for p in (alone, apart)]
            found[f"{method.__name__} {limit}"] = pair
    return found


def test_eight_devices_pick_what_one_does():
    found = on_devices(8, both_ways)
    assert found.pop("devices") == 8 and len(found) == 4
    for (index, weight), (index_apart, weight_apart) in found.values():
        assert index == index_apart
        np.testing.assert_allclose(weight, weight_apart, rtol=1e-3, atol=1e-4)
