import logging

import numpy as np
import pytest

from jaxrobust.data import load_split
from jaxrobust.data.image_set import UNLABELLED
from jaxrobust.data.npz import npz
from jaxrobust.data.shards import Shards

from .conftest import assert_refused, random_arrays, save_npz

POOL = dict(
    dataset="", image_size=0, classes=(), class_names=(), provenance="",
    needs_labels=True,
)  # fmt: skip


def sorted_pool(path, per_class=50, classes=10):
    """A pool as EDM's 1m.npz: class 0 first, nothing shuffled."""
    image, _ = random_arrays(count=per_class * classes)
    np.savez(path, image=image, label=np.repeat(np.arange(classes), per_class))
    return str(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_round_trip(tmp_path, save):
    train, test = random_arrays(seed=1), random_arrays(count=30, seed=2)
    path = save_npz(tmp_path / "set", train, test, save)
    for split, (image, label) in (("train", train), ("test", test)):
        found = npz(split, path)
        np.testing.assert_array_equal(found.image, image)
        np.testing.assert_array_equal(found.label, label)
        assert found.label.dtype == np.int32
        assert found.class_names == ("0", "1", "2")


def test_uncompressed_is_mapped_and_compressed_says_it_is_not(tmp_path, caplog):
    train, test = random_arrays(), random_arrays(count=30)
    caplog.set_level(logging.INFO)
    found = npz("train", save_npz(tmp_path / "plain", train, test))
    assert isinstance(found.image, np.memmap)
    assert "memory" not in caplog.text
    packed = save_npz(tmp_path / "packed", train, test, np.savez_compressed)
    copied = npz("train", packed)
    assert not isinstance(copied.image, np.memmap)
    assert "compressed" in caplog.text and "np.savez" in caplog.text
    assert copied.fingerprint() == found.fingerprint()


def test_fortran_order_and_label_before_image_are_read(tmp_path):
    image, label = random_arrays()
    np.savez(tmp_path / "a.npz", label=label, image=np.asfortranarray(image))
    found = npz("train", str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(found.image, image)


def test_shards_read_as_one_in_name_order(tmp_path):
    image, label = random_arrays(count=90)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    save_npz(whole, (image, label), (image, label))
    (parts / "train").mkdir(parents=True)
    for k, (start, save) in enumerate([(0, np.savez), (40, np.savez_compressed)]):
        rows = slice(start, start + 40 if k == 0 else 90)
        save(parts / "train" / f"{k:03d}.npz", image=image[rows], label=label[rows])
    found = npz("train", str(parts))
    assert isinstance(found.image, Shards) and "2 shards" in found.provenance
    assert found.fingerprint() == npz("train", str(whole)).fingerprint()
    assert npz("train", str(parts / "train")).fingerprint() == found.fingerprint()
    taken = found.take(np.array([80, 2, 41]))
    np.testing.assert_array_equal(taken.image, image[[80, 2, 41]])


def test_limit_of_a_class_sorted_file_is_balanced_and_shuffled(tmp_path, caplog):
    path = sorted_pool(tmp_path / "1m.npz")
    found = load_split("npz", "train", path, limit=100, seed=0, **POOL)
    assert "sorted by class" in caplog.text
    np.testing.assert_array_equal(np.bincount(found.label), np.full(10, 10))
    assert set(found.label[:50]) == set(range(10))
    other = load_split("npz", "train", path, limit=100, seed=1, **POOL)
    assert set(found.source_rows) != set(other.source_rows)


def test_shuffled_file_is_not_called_sorted(tmp_path, caplog):
    npz("train", save_npz(tmp_path / "set", random_arrays(), random_arrays()))
    assert caplog.text == ""


def test_class_names_come_from_member_or_text_file(tmp_path):
    image, label = random_arrays()
    np.savez(tmp_path / "a.npz", image=image, label=label, class_names=["x", "y", "z"])
    assert npz("train", str(tmp_path / "a.npz")).class_names == ("x", "y", "z")
    path = save_npz(tmp_path / "set", (image, label), (image, label))
    (tmp_path / "set" / "class_names.txt").write_text("cat\ndog\nbig fish\n\n")
    assert npz("test", path).class_names == ("cat", "dog", "big fish")


def test_single_file_has_no_test_split(tmp_path):
    with assert_refused("test.npz"):
        npz("test", sorted_pool(tmp_path / "a.npz"))


def test_missing_paths_and_members_are_refused(tmp_path):
    image, label = random_arrays()
    with assert_refused("path"):
        npz("train", "")
    with assert_refused("does not exist"):
        npz("train", str(tmp_path / "nowhere"))
    with assert_refused("train.npz", "np.savez"):
        npz("train", str(tmp_path))
    np.savez(tmp_path / "test.npz", image=image, label=label)
    with assert_refused("train.npz"):
        npz("train", str(tmp_path))
    np.savez(tmp_path / "bad.npz", x=image, label=label)
    with assert_refused("x, label", "'image'"):
        npz("train", str(tmp_path / "bad.npz"))


def test_broken_files_are_refused(tmp_path):
    image, label = random_arrays()
    path = tmp_path / "a.npz"
    path.write_bytes(b"not a zip")
    with assert_refused("a.npz", "cannot be read"):
        npz("train", str(path))
    for save in (np.savez, np.savez_compressed):
        save(path, image=image, label=label)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with assert_refused("a.npz", "cannot be read"):
            npz("train", str(path))
    np.savez(path, image=np.array([None, {}]), label=label)
    with assert_refused("a.npz", "Python objects"):
        npz("train", str(path))
    np.savez(path, image=image, label=label[:-1])
    with assert_refused("a.npz", "59 labels"):
        npz("train", str(path))


def test_shards_that_disagree_are_refused(tmp_path):
    for k, channels in enumerate((1, 3)):
        image, label = random_arrays(channels=channels)
        np.savez(tmp_path / f"{k}.npz", image=image, label=label)
    with assert_refused("1.npz", "agree"):
        npz("train", str(tmp_path))


def test_a_pool_without_labels_keeps_a_random_choice_and_has_no_classes(tmp_path):
    image, _ = random_arrays(count=90, classes=3, seed=5)
    np.savez(tmp_path / "pool.npz", image=image)
    spec = {**POOL, "path": str(tmp_path / "pool.npz"), "seed": 0, "limit": 0}
    spec |= {"class_names": ("a", "b", "c"), "needs_labels": False}
    load = lambda **given: load_split("npz", "train", **{**spec, **given})
    assert np.array_equal(load().image, image)
    kept = load(limit=30)
    assert len(kept) == 30 and (kept.label == UNLABELLED).all()
    rows = {pixels.tobytes() for pixels in image}
    chosen = {pixels.tobytes() for pixels in kept.image}
    first = {pixels.tobytes() for pixels in image[:30]}
    assert len(chosen) == 30 and chosen < rows and chosen != first
    for words, given in (
        ("no classes to choose", {"classes": ("a",)}),
        ("negative", {"limit": -1}),
    ):
        with assert_refused(words):
            load(**given)
