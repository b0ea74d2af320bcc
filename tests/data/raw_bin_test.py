import resource

import numpy as np

from jaxrobust import data
from jaxrobust.data.image_set import ImageSet
from jaxrobust.data.raw_bin import raw_bin
from jaxrobust.loader import Feed, make_pool
from jaxrobust.samplers import MixedSampler
from jaxrobust.sharding import make_mesh
from jaxrobust.types import Subset

from .conftest import assert_refused

TEN_MILLION = 10_000_000


def write(folder, count=40, side=32):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    label = np.sort(np.arange(count) % 4)
    image.tofile(folder / "pool.bin")
    np.save(folder / "labels.npy", label)
    return image, label


def test_pixels_and_labels_come_back_in_file_order(tmp_path):
    image, label = write(tmp_path)
    found = raw_bin("train", str(tmp_path / "pool.bin"), image_size=0)
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.label, label)
    assert isinstance(found.image, np.memmap) and found.num_classes == 4


def test_labels_named_like_the_file_win(tmp_path):
    _, label = write(tmp_path)
    np.save(tmp_path / "pool.npy", label[::-1])
    found = raw_bin("train", str(tmp_path / "pool.bin"), image_size=32)
    np.testing.assert_array_equal(found.label, label[::-1])


def test_what_does_not_fit_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "pool.bin"
    with assert_refused("multiple", "image_size"):
        raw_bin("train", str(path), image_size=33)
    with assert_refused("no test split"):
        raw_bin("test", str(path), image_size=0)
    np.save(tmp_path / "other.npy", np.zeros(40, int))
    with assert_refused("2 .npy files", "pool.npy"):
        raw_bin("train", str(path), image_size=0)
    np.save(tmp_path / "pool.npy", np.zeros(39, int))
    with assert_refused("40 images but 39 labels"):
        raw_bin("train", str(path), image_size=0)


def test_ten_million_images_are_mixed_in_flat_memory(tmp_path):
    """A class-sorted pool of 31 GB, sparse on disk: batches come from all over it."""
    with open(tmp_path / "pool.bin", "wb") as file:
        file.truncate(TEN_MILLION * 32 * 32 * 3)
    label = np.repeat(np.arange(10, dtype=np.uint8), TEN_MILLION // 10)
    np.save(tmp_path / "pool.npy", label)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pool = data.load_split(
        "raw_bin", "train", str(tmp_path / "pool.bin"), "", 0, (), (), 0, 0, "", True
    )
    real = ImageSet(
        np.zeros((64, 32, 32, 3), np.uint8),
        np.arange(64, dtype=np.int32) % 10,
        pool.class_names,
        "real",
    )
    both = make_pool(real, pool)
    sampler = MixedSampler(
        Subset.uniform(np.arange(64)), np.arange(64, len(both)), 24, None, 0, 32
    )
    index, _ = sampler.batches(None, 0, 20)
    image, labels, rows = Feed(both, make_mesh(1), device_gb=1.0)(index)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * 1024, f"{grown} KiB for batches of a 31 GB pool"
    assert image.shape == (20 * 32, 32, 32, 3) and rows.shape == (20, 32)
    counts = np.bincount(np.asarray(labels)[np.asarray(rows[:, 8:]).ravel()])
    assert len(counts) == 10 and counts.min() > 24
