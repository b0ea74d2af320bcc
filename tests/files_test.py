"""Files appear whole or not at all, and equal contents give equal bytes."""

import json
import time

import numpy as np
import pytest

from jaxrobust import files


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "card.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def test_the_name_changes_hands_only_when_all_is_written(tmp_path, monkeypatch):
    path = tmp_path / "data.bin"
    files.write_atomic(path, b"old")

    def killed(source, target):
        assert source.read_bytes() == b"new" and path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    files.write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_npz_bytes_do_not_depend_on_the_clock(tmp_path, monkeypatch):
    arrays = {"index": np.arange(5), "score": np.linspace(0, 1, 5)}
    files.write_npz(tmp_path / "a.npz", arrays)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    files.write_npz(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as stored:
        for name, value in arrays.items():
            np.testing.assert_array_equal(stored[name], value)


def test_json_ends_with_a_newline(tmp_path):
    files.write_json(tmp_path / "x.json", [1, "two"])
    assert (tmp_path / "x.json").read_text() == '[\n  1,\n  "two"\n]\n'
