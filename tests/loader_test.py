"""Which image comes when: orders that need no memory, pools that may live on disk."""

import dataclasses

import numpy as np
import pytest

from jaxrobust import loader
from jaxrobust.errors import UserError
from jaxrobust.types import Subset
from tests.helpers import image_set

INDEX = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
SUBSET = Subset(INDEX, np.arange(10, dtype=np.float32))


def run(first_step, count, batch_size=3, seed=1, subset=SUBSET):
    return loader.batches(subset, seed, batch_size, first_step, count)


@pytest.mark.parametrize("epoch", (0, 1, 7))
def test_an_epoch_visits_each_image_at_most_once(epoch):
    seen, _ = run(3 * epoch, 3)
    assert seen.shape == (3, 3) and seen.dtype == np.int32
    assert len(set(seen.ravel().tolist())) == 9
    assert set(seen.ravel().tolist()) <= set(INDEX.tolist())


def test_a_full_epoch_visits_everyone():
    seen, _ = run(0, 2, batch_size=5)
    np.testing.assert_array_equal(np.sort(seen.ravel()), INDEX)


def test_the_image_left_out_changes_with_the_epoch():
    left_out = [
        (set(INDEX.tolist()) - set(run(3 * e, 3)[0].ravel().tolist())).pop()
        for e in range(20)
    ]
    assert len(set(left_out)) > 4


def test_the_order_does_not_depend_on_where_a_run_resumes():
    whole, whole_weight = run(0, 20)
    for first, count in ((0, 7), (7, 1), (8, 12)):
        index, weight = run(first, count)
        np.testing.assert_array_equal(index, whole[first : first + count])
        np.testing.assert_array_equal(weight, whole_weight[first : first + count])


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [run(3 * epoch, 3, seed=s)[0] for s in (1, 2) for epoch in (0, 1)]
    for i, first in enumerate(orders):
        for second in orders[i + 1 :]:
            assert not np.array_equal(first, second)


def test_weights_travel_with_their_images():
    index, weight = run(0, 6)
    np.testing.assert_array_equal(INDEX[weight.astype(int)], index)


@pytest.mark.parametrize("batch_size", (11, 1000))
def test_a_batch_larger_than_the_subset_is_the_users_mistake(batch_size):
    with pytest.raises(UserError, match="lower train.batch_size to at most 10"):
        run(0, 1, batch_size)


def on_disk(images, path):
    """The same images as a memory map."""
    np.save(path, images.image)
    return dataclasses.replace(images, image=np.load(path, mmap_mode="r"))


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """{name: pool} of the same 50 images, in memory, on disk, and in two parts."""
    folder = tmp_path_factory.mktemp("pools")
    original, generated = image_set(30), image_set(20, seed=1)
    both = dataclasses.replace(
        original,
        image=np.concatenate([original.image, generated.image]),
        label=np.concatenate([original.label, generated.label]),
    )
    return {
        "memory": loader.Pool((both,)),
        "disk": loader.Pool((on_disk(both, folder / "both.npy"),)),
        "parts": loader.make_pool(original, generated),
        "parts on disk": loader.make_pool(
            original, on_disk(generated, folder / "generated.npy")
        ),
    }


NAMES = pytest.mark.parametrize("name", ("memory", "disk", "parts", "parts on disk"))


@NAMES
@pytest.mark.parametrize("index", ([], [49], [0, 29, 30, 49], [7, 41, 7, 2, 30, 41]))
def test_gather_is_fancy_indexing(pools, name, index):
    found = pools[name].gather(np.array(index, int))
    expected = pools["memory"].parts[0].image[np.array(index, int)]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@NAMES
def test_a_pool_is_one_index_space_with_the_original_first(pools, name):
    pool = pools[name]
    assert len(pool) == 50 and pool.nbytes == 50 * 16
    assert pool.num_original == (30 if "parts" in name else 50)
    np.testing.assert_array_equal(pool.label, pools["memory"].parts[0].label)


@NAMES
def test_a_streaming_feed_equals_a_resident_one(pools, name, mesh):
    index = np.array([[3, 44, 3], [29, 30, 0]], np.int32)
    found = {}
    for kind, device_gb in (("resident", 1.0), ("streaming", 0.0)):
        image, label, rows = loader.Feed(pools[name], mesh, device_gb)(index)
        found[kind] = np.asarray(image)[rows], np.asarray(label)[rows]
        assert rows.shape == index.shape
        assert len(image) == (50 if kind == "resident" else 6)
    for ours, theirs in zip(found["resident"], found["streaming"]):
        np.testing.assert_array_equal(ours, theirs)
    flat = found["resident"][0].reshape(6, 4, 4, 1)
    np.testing.assert_array_equal(flat, pools[name].gather(index.ravel()))


def test_pixels_become_unit_floats():
    unit = loader.to_unit(np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(unit, [0.0, 0.2, 1.0], rtol=1e-7)


@pytest.mark.parametrize("size,batch_size", ((10, 4), (10, 5), (3, 8), (1, 1)))
def test_padded_rows_hold_everyone_once_and_mark_the_fillers(size, batch_size):
    index = 100 + np.arange(size)
    rows, real = loader.padded_rows(index, batch_size)
    assert rows.shape == real.shape == (-(-size // batch_size), batch_size)
    np.testing.assert_array_equal(rows[real], index)
    assert set(rows[~real].tolist()) <= set(index.tolist())
    assert real.ravel()[:size].all() and not real.ravel()[size:].any()


def test_pools_of_different_kinds_do_not_mix():
    original = image_set(9)
    taller = dataclasses.replace(original, image=np.zeros((9, 5, 4, 1), np.uint8))
    with pytest.raises(UserError, match="same shape"):
        loader.make_pool(original, taller)
    with pytest.raises(UserError, match="has 2 classes, the original data 3"):
        loader.make_pool(original, image_set(9, classes=2))
    assert loader.make_pool(original, None).num_original == 9
