"""A second start compiles nothing, and computes the same."""

import os
import shutil

import jax
import pytest

from jaxrobust import compile_cache
from jaxrobust.compile_cache import AUTO, FOLDER, THRESHOLDS, prune, switch_on
from tests import runs
from tests.launch import clusters
from tests.tasks.resume_test import final_digests

CONFIG = (*clusters.CONFIG, "--config.train.checkpoint_every_steps=2")
USED = "jax_enable_compilation_cache"
VARIABLE = FOLDER.upper()
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.fixture
def settings(monkeypatch):
    """JAX as it is without our conftest.py; put back afterwards."""
    names = (FOLDER, USED, *THRESHOLDS)
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update(FOLDER, None)
    for name in THRESHOLDS:
        jax.config.update(name, 1)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def start(workdir, monkeypatch, **environment):
    """A tiny run in a process of its own; (programs found, programs compiled)."""
    monkeypatch.delenv(VARIABLE)
    logged = {"JAX_EXPLAIN_CACHE_MISSES": "1", "JAX_LOG_COMPILES": "1"}
    given = {**QUICK, **logged, **environment}
    said = runs.run_process(workdir, *CONFIG, **given).stderr
    monkeypatch.undo()
    kinds = ("compilation cache hit for", "COMPILATION CACHE MISS for")
    return tuple(said.count(kind) for kind in kinds)


def halfway(finished, workdir):
    """A copy of a run as it was after step 2 of 4."""
    shutil.copytree(finished, workdir)
    for late in ("results.json", "card.json", "report.html", "report.md"):
        (workdir / late).unlink()
    (stage,) = (workdir / "checkpoints/seed0").iterdir()
    assert {path.name for path in stage.iterdir()} >= {"2", "4"}
    shutil.rmtree(stage / "4")
    return workdir


def test_a_second_start_and_a_resume_compile_nothing_and_compute_the_same(
    tmp_path, monkeypatch
):
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    found, compiled = start(tmp_path / "1", monkeypatch, **home)
    assert found == 0 and compiled > 10
    assert start(tmp_path / "2", monkeypatch, **home) == (compiled, 0)
    resumed = halfway(tmp_path / "1", tmp_path / "3")
    found, compiled = start(resumed, monkeypatch, **home)
    assert found > 10 and compiled == 0
    assert "resuming" in (resumed / "log.txt").read_text()
    ends = [final_digests(tmp_path / name) for name in "123"]
    assert ends[0] == ends[1] == ends[2] != {}
    (folder,) = (tmp_path / "cache/jaxrobust").iterdir()
    assert folder.name == f"compiled-{compile_cache.machine()}"
    assert folder.stat().st_mode & 0o077 == 0, "others may change what is run"


def test_a_folder_that_cannot_be_made_costs_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv(VARIABLE)
    given = {"XDG_CACHE_HOME": str(tmp_path / "file"), **QUICK}
    ended = runs.run_process(tmp_path / "run", *CONFIG, **given)
    lines = [line for line in ended.stderr.splitlines() if "compile" in line]
    assert len(lines) == 1 and "Not a directory" in lines[0]
    assert "--compile_cache=DIR" in lines[0]


def test_the_variable_is_taken_as_it_is(settings, tmp_path):
    settings.update(FOLDER, str(tmp_path))
    switch_on(AUTO)
    assert settings.jax_compilation_cache_dir == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bucket_is_left_to_jax(settings):
    settings.update(FOLDER, "gs://bucket/programs")
    switch_on(AUTO)
    assert settings.jax_compilation_cache_dir == "gs://bucket/programs"
    assert not os.path.exists("gs:")


def test_the_flag_comes_before_the_variable(settings, tmp_path):
    settings.update(FOLDER, "elsewhere")
    switch_on(str(tmp_path))
    assert settings.jax_compilation_cache_dir == str(*tmp_path.iterdir())


def test_small_programs_are_kept_unless_a_variable_says_otherwise(
    settings, tmp_path, monkeypatch
):
    time, size = THRESHOLDS
    monkeypatch.setenv(time.upper(), "1")
    switch_on(str(tmp_path))
    assert getattr(settings, time) == 1
    assert getattr(settings, size) == -1


@pytest.mark.parametrize("asked, named", [("off", "x"), ("", "x"), (AUTO, "")])
def test_off(asked, named, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings.update(FOLDER, named)
    switch_on(asked)
    assert not settings.jax_enable_compilation_cache
    assert not list(tmp_path.iterdir())


def test_prune_removes_what_was_unused_for_longest(tmp_path):
    for age, name in enumerate(["b-cache", "a-cache", "c-cache", "other"]):
        path = tmp_path / name
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    os.utime(tmp_path / "c-cache", (1e9 + 1, 0))  # old, but used last
    left = lambda: sorted(path.name for path in tmp_path.iterdir())
    prune(tmp_path, 300)
    assert left() == ["a-cache", "b-cache", "c-cache", "other"]
    prune(tmp_path, 299)
    assert left() == ["b-cache", "c-cache", "other"]
    prune(tmp_path, 0)
    assert left() == ["other"]


def test_other_processors_and_numbers_of_cores_have_other_folders(monkeypatch):
    here = compile_cache.machine()
    assert here == compile_cache.machine()
    monkeypatch.setenv("NPROC", "3")
    assert compile_cache.machine() != here
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(compile_cache, "_processor", lambda: ["AMD", "avx2"])
    assert compile_cache.machine() != here
