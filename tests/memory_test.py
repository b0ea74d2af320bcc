"""What a step needs of a device, and the batch that would fit."""

import logging

import numpy as np
import pytest

from jaxrobust import memory
from jaxrobust.loader import Feed, Pool, batches
from jaxrobust.memory import Need
from jaxrobust.train_step import Program
from jaxrobust.types import Subset
from tests.helpers import TinyNet, image_set
from tests.train_step_test import KEY, fresh, make_step

NET = TinyNet(hidden=512)
POOL = Pool((image_set(64),))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("limit", [2_600, 5_000, 8_001, 50_000])
def test_the_suggested_batch_is_the_largest_that_fits(limit, devices):
    need, size = Need(fixed=2_000, batch=6_000), 60
    found = memory.fitting_batch(need, size, limit, devices)
    predicted = lambda batch: need.fixed + need.batch * batch / size
    assert found % devices == 0
    assert predicted(found) <= limit < predicted(found + devices)


def test_nothing_fits_beside_what_is_fixed():
    assert memory.fitting_batch(Need(2_000, 6_000), 60, 1_999, 1) == 0
    # One image needs 100 bytes, and four devices have room for 3 each.
    assert memory.fitting_batch(Need(2_000, 6_000), 60, 2_399, 4) == 0


def test_too_much_is_said_once_with_what_to_do(caplog):
    caplog.set_level(logging.INFO, "jaxrobust")
    need = Need(fixed=2 * 10**9, batch=6 * 10**9)
    memory.announce(need, 60, limit=8 * 10**9, num_devices=4)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    memory.announce(need, 60, limit=5 * 10**9, num_devices=4)
    memory.announce(need, 60, limit=10**9, num_devices=4)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "set batch_size to 28," in said[0] and "batch_size" not in said[1]
    assert "multiply train.accumulate by 3" in said[0] and "accumulate" not in said[1]
    assert "8,000.0 MB is more than the 1,000.0 MB of a device" in said[1]
    assert "train.shard_params" in said[1]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("limit", [2_600, 3_999, 4_000, 5_001])
def test_the_suggested_slices_are_the_fewest_that_fit(limit, devices):
    need = Need(fixed=2_000, batch=6_000)
    found = memory.fitting_slices(need, 60, limit, devices)
    even = [count for count in range(1, 61) if 60 % (count * devices) == 0]
    fit = [count for count in even if 2_000 + 6_000 / count <= limit]
    assert found == min(fit)
    assert memory.fitting_slices(need, 60, 2_000, devices) == 0


def needs(mesh, sizes, **options):
    """{batch size: what its step was predicted to need}"""
    found, feed = {}, Feed(POOL, mesh, 1.0)
    step = make_step(net=NET, **options)
    for size in sizes:
        program, state = Program(step, mesh), fresh(NET)
        index, weight = batches(Subset.uniform(np.arange(64)), 0, size, 0, 1)
        inputs = (state, KEY, *feed(index), index, weight)
        program(*inputs)
        found[size] = memory.predict(program.executable(*inputs), fresh(NET).params)
        assert program.memory_bytes == found[size].total
    return found


def test_the_prediction_grows_with_the_batch_and_so_foretells_another(mesh):
    found = needs(mesh, (16, 32, 64))
    # Weights, momentum and averages, and the pool, are there whatever the batch.
    size = 4 * (16 * 512 + 512 + 512 * 3 + 3)
    for size_, need in found.items():
        assert need.fixed >= 3 * size + POOL.nbytes
        assert need.batch >= 4 * 512 * size_
    assert found[16].total < found[32].total < found[64].total
    foretold = found[64].fixed + found[64].batch // 4
    assert foretold == pytest.approx(found[16].total, rel=0.1)


def test_slices_need_less(mesh):
    whole, sliced = (needs(mesh, (64,), accumulate=n)[64] for n in (1, 8))
    assert sliced.batch < 0.5 * whole.batch
    assert sliced.fixed == pytest.approx(whole.fixed, rel=0.1)


def test_the_peak_counts_what_is_in_use():
    before = memory.peak()
    block = np.ones(before // 8 + 25_000_000 // 8)
    after = memory.peak()
    assert after >= block.nbytes and after > before
    del block
    assert memory.peak() >= after
    assert memory.limit() > before
