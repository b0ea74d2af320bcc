"""A manifest loads only whole, consistent, and for the data that it is of."""

import json

import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.selection import Manifest, load_manifest, write_manifest
from tests.helpers import image_set

ORIGINAL, GENERATED = image_set(6), image_set(4, seed=1)
LABEL = np.concatenate([ORIGINAL.label, GENERATED.label])
INDEX = np.array([0, 2, 3, 7, 9])
KEPT = np.array([True, False, True, True, False])


def make(facts=None, **columns):
    """A manifest of both sets, with some facts and columns replaced (None: left
    out)."""
    columns = {
        "index": INDEX,
        "weight": np.array([1.0, 1.0, 0.5, 2.0, 1.0], np.float32),
        "score": np.linspace(0, 1, 5, dtype=np.float32),
        "kept": KEPT,
        "label": LABEL[INDEX],
    } | columns
    stated = {
        "data_sha256": [ORIGINAL.fingerprint(), GENERATED.fingerprint()],
        "candidates": 5,
        "kept": 3,
    } | (facts or {})
    present = lambda given: {k: v for k, v in given.items() if v is not None}
    return Manifest(present(columns), present(stated))


@pytest.fixture
def written(tmp_path):
    """(manifest) -> the path NAME."""

    def write(manifest):
        write_manifest(tmp_path, "seed0.round1", manifest)
        return tmp_path / "seed0.round1"

    return write


@pytest.mark.parametrize("end", ("", ".npz", ".json"))
def test_any_of_its_names_loads_it(written, end):
    manifest = make()
    path = written(manifest)
    found = load_manifest(f"{path}{end}", (ORIGINAL, GENERATED))
    assert found.facts == manifest.facts
    assert found.columns.keys() == manifest.columns.keys()
    for name, column in manifest.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    np.testing.assert_array_equal(found.subset.index, [0, 3, 7])
    np.testing.assert_array_equal(found.subset.weight, [1.0, 0.5, 2.0])


def test_a_single_image_set_need_not_be_in_a_list(written):
    facts = {"data_sha256": [ORIGINAL.fingerprint()], "candidates": 3, "kept": 2}
    columns = {name: column[:3] for name, column in make().columns.items()}
    path = written(make(facts, **columns))
    np.testing.assert_array_equal(load_manifest(path, ORIGINAL).subset.index, [0, 3])


@pytest.mark.parametrize(
    "given,message",
    (
        (ORIGINAL, "is of 2 image set.s., 1 given"),
        ((GENERATED, ORIGINAL), "is of other data than .* .image set 1"),
        ((ORIGINAL, image_set(4, seed=2)), "is of other data than .* .image set 2"),
        ((), "is of 2 image set.s., 0 given"),
    ),
)
def test_other_data_is_refused(written, given, message):
    path = written(make())
    load_manifest(path)
    with pytest.raises(UserError, match=message):
        load_manifest(path, given)


def test_one_changed_pixel_or_label_is_other_data(written):
    path = written(make())
    image, label = GENERATED.image.copy(), GENERATED.label.copy()
    image[3, 0, 0, 0] ^= 1
    label[0] = (label[0] + 1) % 3
    for changed in ((image, GENERATED.label), (GENERATED.image, label)):
        other = type(GENERATED)(*changed, GENERATED.class_names, "changed")
        with pytest.raises(UserError, match="is of other data"):
            load_manifest(path, (ORIGINAL, other))


def test_without_a_fingerprint_data_cannot_be_compared(written):
    path = written(make({"data_sha256": None}))
    load_manifest(path)
    with pytest.raises(UserError, match="does not say which data"):
        load_manifest(path, ORIGINAL)


@pytest.mark.parametrize("end", (".npz", ".json"))
def test_half_a_manifest_says_what_is_missing(written, end):
    path = written(make())
    path.with_name(path.name + end).unlink()
    with pytest.raises(UserError, match=f"no seed0.round1{end} in"):
        load_manifest(path)


def test_a_cut_off_file_is_refused_wherever_it_was_cut(written):
    path = written(make())
    file = path.with_name(path.name + ".npz")
    whole = file.read_bytes()
    for size in (*range(0, len(whole), 41), len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be read"):
            load_manifest(path)


def test_no_changed_byte_ends_in_a_traceback(written):
    manifest = make()
    path = written(manifest)
    file = path.with_name(path.name + ".npz")
    whole = file.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        try:
            found = load_manifest(path)
        except UserError:
            refused += 1
        else:  # a byte that nobody reads, such as a date
            np.testing.assert_array_equal(found.subset.index, manifest.subset.index)
    assert refused > len(whole) // 3 // 2


@pytest.mark.parametrize("text", ("", "{", "[1]", "\x00"))
def test_a_broken_json_is_refused(written, text):
    path = written(make())
    path.with_name(path.name + ".json").write_text(text)
    with pytest.raises(UserError, match="seed0.round1.json"):
        load_manifest(path)


@pytest.mark.parametrize(
    "facts,columns,message",
    (
        ({}, {"kept": None}, "'kept' is missing"),
        ({}, {"kept": KEPT.astype(np.int64)}, "'kept' is int64"),
        ({}, {"index": INDEX.astype(np.float32)}, "'index' is float32"),
        ({}, {"score": np.zeros(4, np.float32)}, "disagree in length"),
        ({}, {"weight": np.ones((5, 2), np.float32)}, "disagree in length"),
        ({}, {"index": np.array(3)}, "disagree in length"),
        ({}, {"index": INDEX[::-1].copy()}, "must ascend"),
        ({}, {"index": np.array([0, 2, 2, 7, 9])}, "must ascend"),
        ({}, {"index": INDEX - 1}, "must ascend from 0"),
        ({}, {"weight": np.full(5, np.nan, np.float32)}, "weights must be finite"),
        ({}, {"weight": np.full(5, -1, np.float32)}, "weights must be finite"),
        ({"kept": 4}, {}, "has 3 kept where its json says 4"),
        ({"candidates": 9}, {}, "has 5 candidates where its json says 9"),
        ({}, {"index": INDEX + 1, "label": None}, "index 10 is outside its 10 images"),
        ({}, {"label": (LABEL[INDEX] + 1) % 3}, "labels are not those of its images"),
    ),
)
def test_inconsistent_columns_are_refused(written, facts, columns, message):
    path = written(make(facts, **columns))
    with pytest.raises(UserError, match=message):
        load_manifest(path, (ORIGINAL, GENERATED))


def test_an_object_array_is_never_unpickled(written, tmp_path):
    path = written(make())
    columns = make().columns | {"note": np.array([json], object)[:0]}
    np.savez(f"{path}.npz", **columns)
    with pytest.raises(UserError, match="cannot be read"):
        load_manifest(path)
