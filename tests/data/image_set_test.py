import dataclasses

import numpy as np
import pytest

from jaxrobust.data.image_set import ImageSet, blocks, gather, validate
from jaxrobust.data.shards import Shards

from .conftest import assert_refused, random_arrays, random_set


def with_image(image):
    return ImageSet(image, np.arange(len(image)) % 2, ("a", "b"), "")


def with_label(label, names=("a", "b")):
    return ImageSet(random_arrays(count=6)[0], np.asarray(label), names, "")


GOOD = random_arrays(count=6)[0]
BAD_IMAGES = {
    "unit floats": (GOOD / np.float32(255), ("float32", "[0,1]", "uint8")),
    "byte floats": (GOOD.astype(np.float64), ("float64", "[0,255]", "uint8")),
    "wide integers": (GOOD.astype(np.int64), ("int64", "[0,255]", "uint8")),
    "normalised": (GOOD / 64.0 - 2, ("float64", "normalisation", "uint8")),
    "bool": (GOOD > 7, ("bool", "uint8")),
    "nan": (np.where(GOOD == GOOD.max(), np.nan, GOOD), ("NaN",)),
    "no channel axis": (GOOD[..., 0], ("[..., None]",)),
    "channels first": (GOOD.transpose(0, 3, 1, 2), ("transpose(0, 2, 3, 1)",)),
    "four channels": (np.zeros((6, 8, 8, 4), np.uint8), ("4 channels",)),
    "flat": (GOOD.reshape(6, -1), ("[N,H,W,",)),
    "too small": (GOOD[:, :7], ("at least 8",)),
    "empty": (GOOD[:0], ("empty",)),
}
BAD_LABELS = {
    "count": ([0, 1, 0], ("6 images", "3 labels")),
    "float": ([0.0, 1, 0, 1, 0, 1], ("float64", "integers")),
    "nan": ([0, 1, np.nan, 1, 0, 1], ("NaN",)),
    "strings": (["a"] * 6, ("integers",)),
    "bool": ([True, False] * 3, ("integers",)),
    "negative": ([0, 1, -1, 1, 0, 1], ("-1", "0..1")),
    "too high": ([0, 1, 2, 1, 0, 1], ("2", "0..1")),
    "unsigned": (np.array([0, 2**63, 0, 1, 0, 1], np.uint64), ("0..1",)),
    "one-hot": (np.eye(2, dtype=int)[[0, 1] * 3], ("argmax",)),
    "column": ([[0], [1]] * 3, ("reshape(-1)",)),
    "one class": ([1] * 6, ("two classes", "'b'")),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_unusable_images_are_refused_in_one_line(case):
    image, words = BAD_IMAGES[case]
    with assert_refused(*words):
        validate(with_image(image))


@pytest.mark.parametrize("case", BAD_LABELS)
def test_unusable_labels_are_refused_in_one_line(case):
    label, words = BAD_LABELS[case]
    with assert_refused(*words):
        validate(with_label(label))


def test_absurd_label_of_a_nameless_set_is_refused():
    with assert_refused("1000000"):
        validate(with_label([0, 10**6, 0, 1, 0, 1], ()))


def test_valid_set_gets_int32_labels_and_numbered_classes():
    good = validate(with_label(np.array([0, 2, 0, 1, 0, 1], np.uint8), ()))
    assert good.label.dtype == np.int32
    assert good.class_names == ("0", "1", "2") and good.num_classes == 3
    assert len(good) == 6


@pytest.mark.parametrize("place", range(0, 60 * 8 * 8 * 3, 1777))
def test_fingerprint_changes_with_any_pixel(place):
    base = random_set()
    image = base.image.copy()
    image.reshape(-1)[place] ^= 1
    changed = dataclasses.replace(base, image=image)
    assert changed.fingerprint() != base.fingerprint()


def test_fingerprint_changes_with_any_label_order_and_shape():
    base = random_set()
    label = base.label.copy()
    label[17] = (label[17] + 1) % 3
    others = [
        dataclasses.replace(base, label=label),
        base.take(np.arange(60)[::-1]),
        base.take(np.arange(59)),
        dataclasses.replace(base, image=base.image.reshape(60, 16, 4, 3)),
    ]
    prints = {other.fingerprint() for other in [base, *others]}
    assert len(prints) == 5


def test_fingerprint_ignores_how_pixels_are_stored(tmp_path, monkeypatch):
    base = random_set()
    # Small blocks: streaming in pieces must not show.
    monkeypatch.setattr("jaxrobust.data.image_set.BLOCK_BYTES", 1000)
    np.save(tmp_path / "image.npy", base.image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    for image in (
        mapped,
        Shards([base.image[:11], mapped[11:]]),
        np.asfortranarray(base.image),
    ):
        other = dataclasses.replace(base, image=image, provenance="elsewhere")
        assert other.fingerprint() == base.fingerprint()


def test_take_is_indexing_and_remembers_source_rows():
    base = random_set()
    first = np.array([5, 3, 40, 41])
    taken = base.take(first).take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.image, base.image[[40, 5]])
    np.testing.assert_array_equal(taken.label, base.label[[40, 5]])
    np.testing.assert_array_equal(taken.source_rows, [40, 5])
    np.testing.assert_array_equal(base.source_rows, np.arange(60))


def test_gather_from_disk_equals_indexing(tmp_path):
    image, _ = random_arrays(count=9000, channels=1)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    index = np.random.default_rng(1).integers(0, 9000, 10_000)
    for pixels in (mapped, Shards([mapped[:4000], mapped[4000:]])):
        np.testing.assert_array_equal(gather(pixels, index), image[index])


def test_blocks_join_to_the_whole(monkeypatch):
    monkeypatch.setattr("jaxrobust.data.image_set.BLOCK_BYTES", 1000)
    image, _ = random_arrays()
    pieces = list(blocks(image))
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), image)


KEYS = [0, -1, 59, slice(None), slice(7, 50, 3), slice(50, 7, -4), slice(30, 30)]
KEYS += [np.array([3, 59, 3, -2]), np.arange(60) % 3 == 0, np.array([[1, 20], [40, 2]])]
KEYS += [np.zeros(0, np.int64)]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_shards_index_like_the_array_they_stand_for(key):
    image, _ = random_arrays()
    shards = Shards([image[:10], image[10:11], image[11:]])
    assert shards.shape == image.shape and shards.dtype == image.dtype
    np.testing.assert_array_equal(shards[key], image[key])


def test_shards_become_the_array_and_refuse_rows_outside():
    image, _ = random_arrays()
    shards = Shards([image[:10], image[10:]])
    np.testing.assert_array_equal(np.asarray(shards), image)
    for index in (60, -61, [0, 60]):
        with pytest.raises(IndexError):
            shards[index]
