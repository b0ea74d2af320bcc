"""Manifests say what was chosen, twice the same, and load without this package."""

import json

import numpy as np

from jaxrobust.selection import Manifest, read_manifest, write_manifest

MANIFEST = Manifest(
    columns={
        "index": np.array([2, 5, 7, 11]),
        "weight": np.array([1.0, 0.5, 2.0, 1.0], np.float32),
        "score": np.array([0.1, 0.9, 0.4, 0.8], np.float32),
        "kept": np.array([False, True, False, True]),
    },
    facts={"method": "robust_risk", "seed": 3, "budget": 2, "kept": "trained on"},
)


def test_round_trip(tmp_path):
    write_manifest(tmp_path / "selections", "round1", MANIFEST)
    found = read_manifest(tmp_path / "selections", "round1")
    assert found.facts == MANIFEST.facts
    assert set(found.columns) == set(MANIFEST.columns)
    for name, value in MANIFEST.columns.items():
        np.testing.assert_array_equal(found.columns[name], value)
        assert found.columns[name].dtype == value.dtype


def test_the_subset_is_the_kept_rows(tmp_path):
    subset = MANIFEST.subset
    np.testing.assert_array_equal(subset.index, [5, 11])
    np.testing.assert_array_equal(subset.weight, [0.5, 1.0])


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        write_manifest(tmp_path / folder, "round1", MANIFEST)
    for name in ("round1.npz", "round1.json"):
        first, second = ((tmp_path / f / name).read_bytes() for f in ("a", "b"))
        assert first == second


def test_a_manifest_without_its_arrays_is_not_finished(tmp_path):
    assert read_manifest(tmp_path, "round1") is None
    write_manifest(tmp_path, "round1", MANIFEST)
    (tmp_path / "round1.npz").unlink()
    assert read_manifest(tmp_path, "round1") is None


def test_the_arrays_come_last(tmp_path, monkeypatch):
    from jaxrobust.selection import manifest

    def killed(path, columns):
        assert (tmp_path / "round1.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "write_npz", killed)
    try:
        write_manifest(tmp_path, "round1", MANIFEST)
    except KeyboardInterrupt:
        pass
    assert read_manifest(tmp_path, "round1") is None


def test_numpy_and_json_alone_read_it(tmp_path):
    write_manifest(tmp_path, "round1", MANIFEST)
    with np.load(tmp_path / "round1.npz", allow_pickle=False) as stored:
        kept = stored["index"][stored["kept"]]
    np.testing.assert_array_equal(kept, [5, 11])
    assert json.loads((tmp_path / "round1.json").read_text())["budget"] == 2
