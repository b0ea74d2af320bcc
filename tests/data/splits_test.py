import inspect

import numpy as np
import pytest

from jaxrobust.data import SOURCES, load_split, load_splits

from .conftest import assert_refused, random_arrays, save_npz

DEFAULTS = dict(
    dataset="",
    image_size=0,
    classes=(),
    train_limit=0,
    test_limit=0,
    val_count=0,
    seed=0,
    provenance="",
)
NAMES = ("ant", "bee", "cow", "dog")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    root = tmp_path_factory.mktemp("splits") / "set"
    train = random_arrays(count=200, classes=4, seed=1)
    test = random_arrays(count=80, classes=4, seed=2)
    save_npz(root, train, test)
    (root / "class_names.txt").write_text("\n".join(NAMES))
    return str(root)


def load(path, **changes):
    return load_splits("npz", path, **{**DEFAULTS, **changes})


def rows_of(image_set):
    return {pixels.tobytes() for pixels in image_set.image}


def test_without_limits_everything_is_kept_in_source_order(path):
    splits = load(path)
    assert [len(part) for part in splits] == [200, 0, 80]
    np.testing.assert_array_equal(splits.train.source_rows, np.arange(200))
    assert isinstance(splits.train.image, np.memmap)
    assert splits.val.class_names == splits.test.class_names == NAMES


def test_train_and_val_are_disjoint_and_together_the_whole(path):
    splits, whole = load(path, val_count=40), load(path)
    assert not rows_of(splits.train) & rows_of(splits.val)
    assert rows_of(splits.train) | rows_of(splits.val) == rows_of(whole.train)
    np.testing.assert_array_equal(np.bincount(splits.val.label), [10] * 4)
    assert splits.test.fingerprint() == whole.test.fingerprint()
    first = whole.train.image[splits.val.source_rows]
    np.testing.assert_array_equal(first, splits.val.image)


def test_val_does_not_depend_on_the_train_limit(path):
    whole, limited = load(path, val_count=40), load(path, val_count=40, train_limit=20)
    assert limited.val.fingerprint() == whole.val.fingerprint()
    assert len(limited.train) == 20
    assert not rows_of(limited.train) & rows_of(limited.val)


def test_limits_are_stratified_and_a_function_of_seed(path):
    limits = dict(train_limit=40, test_limit=20)
    splits = load(path, **limits)
    np.testing.assert_array_equal(np.bincount(splits.train.label), [10] * 4)
    np.testing.assert_array_equal(np.bincount(splits.test.label), [5] * 4)
    again, other = load(path, **limits), load(path, seed=1, **limits)
    for part in ("train", "test"):
        assert getattr(splits, part).fingerprint() == getattr(again, part).fingerprint()
        assert rows_of(getattr(splits, part)) != rows_of(getattr(other, part))


def test_limit_above_the_size_keeps_all_and_tiny_test_limits_are_allowed(path):
    splits = load(path, train_limit=10_000, test_limit=2)
    assert len(splits.train) == 200 and len(splits.test) == 2


@pytest.mark.parametrize("classes", [("dog", "bee"), (3, 1), ("dog", 1)])
def test_classes_are_kept_in_the_given_order_and_renumbered(path, classes):
    whole, splits = load(path), load(path, classes=classes, val_count=10)
    for kept, full in ((splits.train, whole.train), (splits.test, whole.test)):
        assert kept.class_names == ("dog", "bee")
        names = np.array(kept.class_names)[kept.label]
        np.testing.assert_array_equal(
            names, np.array(NAMES)[full.label[kept.source_rows]]
        )
    assert len(splits.train) + len(splits.val) == 100 and len(splits.test) == 40


def test_provenance_replaces_the_line_of_the_source(path):
    assert all("npz" in part.provenance for part in load(path))
    said = "cifar10 (jpeg q75 copy)"
    assert all(part.provenance == said for part in load(path, provenance=said))


def test_impossible_wishes_are_refused(path):
    with assert_refused("did you mean npz"):
        load_splits("npzz", path, **DEFAULTS)
    with assert_refused("class 'beee'", "did you mean bee"):
        load(path, classes=("beee", "ant"))
    for classes in (("ant",), ("ant", "ant"), ("ant", 0)):
        with assert_refused("two different classes"):
            load(path, classes=classes)
    with assert_refused("4"):
        load(path, classes=(0, 4))
    for key in ("train_limit", "test_limit", "val_count"):
        with assert_refused(key, "negative"):
            load(path, **{key: -1})
    for count in (197, 200, 10_000):
        with assert_refused("val_count", "lower"):
            load(path, val_count=count)
    with assert_refused("train_limit=3", "4 classes"):
        load(path, train_limit=3)


def test_errors_name_the_split(tmp_path):
    train, (image, label) = random_arrays(), random_arrays()
    path = save_npz(tmp_path / "set", train, (image / 255, label))
    with assert_refused("test data: ", "[0,1]"):
        load(path)


def test_splits_must_agree_on_shape_and_classes(tmp_path):
    train = random_arrays()
    path = save_npz(tmp_path / "a", train, random_arrays(channels=1))
    with assert_refused("[8, 8, 3]", "[8, 8, 1]"):
        load(path)
    path = save_npz(tmp_path / "b", train, random_arrays(classes=4))
    with assert_refused("4 and 3 classes"):
        load(path)


def test_numbered_test_split_may_lack_the_last_class(tmp_path):
    path = save_npz(tmp_path / "a", random_arrays(classes=4), random_arrays(classes=3))
    splits = load(path)
    assert splits.test.class_names == splits.train.class_names == tuple("0123")


def test_labels_counted_from_one_are_pointed_out(tmp_path, caplog):
    image, label = random_arrays()
    load(save_npz(tmp_path / "a", (image, label + 1), (image, label + 1)))
    assert "counted from 1" in caplog.text


def test_unread_path_is_pointed_out(tmp_path, caplog):
    load_splits("digits", str(tmp_path), **DEFAULTS)
    assert "takes no path" in caplog.text


def test_pool_takes_over_names_or_must_have_them(path, tmp_path):
    image, label = random_arrays(classes=4)
    np.savez(tmp_path / "pool.npz", image=image, label=label)
    pool = dict(dataset="", image_size=0, limit=0, seed=0, provenance="")
    pool.update(path=str(tmp_path / "pool.npz"), classes=(), class_names=NAMES)
    pool.update(needs_labels=True)
    assert load_split("npz", "train", **pool).class_names == NAMES
    pool.update(classes=(3, 1), class_names=("dog", "bee"))
    with assert_refused("differently"):
        load_split("npz", "train", **{**pool, "class_names": ("dog",)})
    found = load_split("npz", "train", **{**pool, "class_names": ()})
    assert found.class_names == ("3", "1") and len(found) == 30
    assert load_split("npz", "train", **pool).class_names == ("dog", "bee")
    with assert_refused("limit=-1"):
        load_split("npz", "train", **{**pool, "limit": -1})
    with assert_refused("split 'valid'"):
        load_split("npz", "valid", **pool)


def test_every_source_declares_only_known_options():
    known = {"split", "path", "dataset", "image_size"}
    for source in SOURCES.values():
        parameters = inspect.signature(source).parameters
        assert set(parameters) <= known and next(iter(parameters)) == "split"
        assert source.__doc__
        assert all(p.default is inspect.Parameter.empty for p in parameters.values())
