"""Coresets on eight devices: classes apart, the picks those of one device."""

import re

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrobust import features, sharding
from jaxrobust.selection.craig import craig
from jaxrobust.selection.gradmatch import gradmatch
from jaxrobust.selection.spread_factors import SpreadFactors, deal
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


def spread(factors, mesh, count, batch):
    """`count` points [S,batch,...] over the devices, filled up with zeros."""
    size = -(-count // batch) * batch
    fill = lambda x: np.pad(x, [(0, size - count)] + [(0, 0)] * (x.ndim - 1))
    fold = lambda x: fill(np.asarray(x)).reshape(-1, batch, *x.shape[1:])
    laid = (sharding.lay_columns(fold(x), mesh) for x in factors)
    return SpreadFactors(*laid)


def apart():
    """Picks, weights and errors by method: of factors in one place, and of those that
    stay apart; and the most numbers that a value of the compiled choice has."""
    mesh, key, found = sharding.make_mesh(0), jax.random.key(0), {}
    factors, _ = clustered(230, classes=10, seed=1)
    label = np.random.default_rng(0).permutation(np.arange(230) % 10)
    laid = spread(factors, mesh, 230, batch=40)
    for method in (craig, gradmatch):
        alone = method(factors, label, 60, key)
        other = method(laid, label, 60, key, mesh=mesh)
        found[method.__name__] = [
            [p.index.tolist(), p.weight.tolist(), float(p.facts["gradient_error"])]
            for p in (alone, other)
        ]
    rows = np.arange(240, dtype=np.int32).reshape(24, 10) % 230
    found["sizes"] = {
        name: [largest(given, rows, mesh), given.embedding.size]
        for name, given in (("one place", factors), ("apart", laid))
    }
    return found


def largest(factors, rows, mesh):
    """Numbers in the largest value of a program that deals points to devices."""

    def dealt(factors, rows):
        if isinstance(factors, SpreadFactors):
            return deal(factors, rows, mesh)
        return sharding.split_batch(features.take(factors, rows), mesh)

    text = jax.jit(dealt).lower(factors, rows).compile().as_text()
    sizes = re.findall(r"f32\[([\d,]+)\]", text)
    return max(int(np.prod([int(n) for n in size.split(",")])) for size in sizes)


def test_factors_that_stay_apart_give_the_same_picks():
    found = on_devices(8, apart)
    sizes = found.pop("sizes")
    for (index, weight, error), (other, other_weight, other_error) in found.values():
        assert index == other
        np.testing.assert_allclose(weight, other_weight, rtol=1e-3, atol=1e-4)
        assert abs(error - other_error) < 1e-4
    most, all_ = sizes["one place"]
    assert most >= all_
    most, all_ = sizes["apart"]
    assert most <= all_ / 4


def test_eight_devices_pick_what_one_does():
    found = on_devices(8, both_ways)
    assert found.pop("devices") == 8 and len(found) == 4
    for (index, weight), (index_apart, weight_apart) in found.values():
        assert index == index_apart
        np.testing.assert_allclose(weight, weight_apart, rtol=1e-3, atol=1e-4)
