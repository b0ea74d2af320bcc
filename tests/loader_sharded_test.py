"""A pool on disk over several devices: each reads its own rows, images stay there."""

import jax
import numpy as np
import pytest

from jaxrobust import sharding
from jaxrobust.loader import Feed, Pool, take_rows
from jaxrobust.train_step import Program
from tests.bench import hlo_flops
from tests.helpers import TinyNet, image_set, on_devices, on_processes
from tests.train_step_test import KEY, fresh, make_step

NET = TinyNet(norm=True)
POOL = Pool((image_set(50),))
INDEX = np.random.default_rng(0).integers(0, 50, (3, 8)).astype(np.int32)
WEIGHT = np.ones(INDEX.shape, np.float32)


class Spied(Pool):
    """Remembers which images were read."""

    read = []

    def gather(self, index):
        """As the pool does."""
        self.read.append(np.asarray(index).tolist())
        return super().gather(index)


def chunk():
    """What this process read of a chunk, what its devices hold, and the batches in
    it."""
    mesh, pool = sharding.make_mesh(0), Spied(POOL.parts)
    pool.read.clear()
    images, labels, rows = Feed(pool, mesh, 0.0)(INDEX)
    take = jax.jit(take_rows, static_argnums=3)
    batches = [take(images, labels, row, mesh) for row in rows]
    whole = [np.asarray(x).tolist() for x in sharding.gather(batches[1], mesh)]
    return {
        "read": sorted(pool.read),
        "held": [list(part.data.shape) for part in images.addressable_shards],
        "second": whole,
        "spec": str(batches[1][0].sharding.spec),
    }


def share(device, devices):
    """The pool positions of a device's rows, batch by batch."""
    size = INDEX.shape[1] // devices
    return INDEX[:, device * size : (device + 1) * size].ravel().tolist()


def assert_taken(found):
    """The second batch is the one that the order asks for, split over the devices."""
    image, label = found["second"]
    np.testing.assert_array_equal(image, POOL.gather(INDEX[1]))
    np.testing.assert_array_equal(label, POOL.label[INDEX[1]])
    assert "data" in found["spec"]


def test_each_device_holds_its_own_rows():
    found = on_devices(4, chunk)
    assert found["read"] == sorted(share(device, 4) for device in range(4))
    assert found["held"] == [[1, 6, 4, 4, 1]] * 4
    assert_taken(found)


def test_each_process_reads_the_rows_of_its_own_devices():
    for number, found in enumerate(on_processes(2, 2, chunk)):
        own = (2 * number, 2 * number + 1)
        assert found["read"] == sorted(share(device, 4) for device in own)
        assert found["held"] == [[1, 6, 4, 4, 1]] * 2
        assert_taken(found)


def train(device_gb):
    """Losses of a chunk, and [bytes exchanged, exchanges, moves] of its program."""
    mesh = sharding.make_mesh(0)
    program = Program(make_step(net=NET), mesh)
    state = sharding.replicate(jax.device_get(fresh(NET)), mesh)
    key = sharding.replicate_key(KEY, mesh)
    given = (*Feed(POOL, mesh, device_gb)(INDEX), INDEX, WEIGHT)
    state, history = program(state, key, *given)
    text = program.executable(state, key, *given).as_text()
    moves = ("all-to-all(", "collective-permute(", "all-gather(")
    moved = sum(any(word in line for word in moves) for line in text.splitlines())
    parsed = hlo_flops.parse(text)
    said = [parsed.exchanged(), parsed.exchanges(), moved]
    return {"losses": np.asarray(history["loss"]).tolist(), "said": said}


def both_ways():
    """The same chunk of a resident pool and of one on disk; and a ragged batch."""
    mesh = sharding.make_mesh(0)
    ragged = Feed(POOL, mesh, 0.0)(INDEX[0, :7])
    take = jax.jit(take_rows, static_argnums=3)
    image, _ = take(*ragged, mesh)
    return train(1.0), train(0.0), np.asarray(image).tolist()


@pytest.fixture(scope="module")
def four():
    return on_devices(4, both_ways)


def test_it_trains_as_from_a_resident_pool(four):
    resident, streamed, _ = four
    np.testing.assert_allclose(streamed["losses"], resident["losses"], rtol=1e-5)
    assert len(streamed["losses"]) == 3


def test_devices_exchange_no_images(four):
    resident, streamed, _ = four
    assert streamed["said"] == resident["said"]
    assert streamed["said"][2] == 0


def said():
    """What the devices of this group exchange, for both kinds of pool."""
    return [train(device_gb)["said"] for device_gb in (1.0, 0.0)]


def test_two_processes_exchange_what_four_devices_of_one_do(four):
    for found in on_processes(2, 2, said):
        assert found == [four[0]["said"], four[1]["said"]]


def test_a_batch_that_does_not_divide_comes_whole(four):
    np.testing.assert_array_equal(four[2], POOL.gather(INDEX[0, :7]))
