"""Checkpoints come back bit for bit, and damage costs work but never the run."""

import contextlib
import logging
import os
import shutil
import time

import jax
import numpy as np
import optax
import pytest

from jaxrobust.checkpoint import Checkpointer
from jaxrobust.errors import UserError
from jaxrobust.state import create_state
from tests.helpers import TinyNet, assert_trees_equal, variables_of

NET = TinyNet(norm=True)


def state_of(seed, net=NET, with_ema=True):
    """A state whose every leaf tells its seed."""
    tx = optax.sgd(0.1, momentum=0.9)
    state = create_state(variables_of(net, seed), tx, with_ema)
    shifted = jax.tree.map(lambda x: x + np.asarray(seed, x.dtype), state.opt_state)
    return state.replace(step=state.step + seed, opt_state=shifted)


@pytest.fixture
def opened(tmp_path):
    """(track_best) -> a Checkpointer of one directory, closed after the test."""
    made = []

    def make(track_best=False):
        if made:
            made[-1].close()
        made.append(Checkpointer(tmp_path / "stage", track_best))
        return made[-1]

    yield make
    made[-1].close()


def save(checkpoints, step, metric=None):
    checkpoints.save(step, state_of(step), {"step": step, "note": "x"}, metric)
    checkpoints.wait()


def kept(tmp_path):
    return sorted(int(p.name) for p in (tmp_path / "stage").iterdir())


def assert_resumes_at(checkpoints, step):
    state, host = checkpoints.restore_latest(state_of(0))
    assert_trees_equal(state, state_of(step))
    assert host == {"step": step, "note": "x"}


@pytest.mark.parametrize("track_best", (False, True))
@pytest.mark.parametrize("with_ema", (False, True))
@pytest.mark.parametrize("net", (NET, TinyNet()), ids=("statistics", "none"))
def test_round_trip_is_bit_for_bit(opened, net, with_ema, track_best):
    checkpoints = opened(track_best)
    state = state_of(3, net, with_ema)
    checkpoints.save(3, state, {"step": 3, "seconds": 0.1}, None)
    checkpoints.wait()
    found, host = opened(track_best).restore_latest(state_of(0, net, with_ema))
    assert_trees_equal(found, state)
    assert type(found) is type(state) and host == {"step": 3, "seconds": 0.1}


def written(folder):
    """Whether the checkpoint has its final name: it is renamed when it is whole."""
    return (folder / "stage" / "3").exists()


def test_waiting_saves_are_whole_when_they_return(tmp_path):
    """And in the background they are not, but hold the same once they are."""
    found = []
    for in_background in (False, True):
        folder = tmp_path / str(in_background)
        checkpoints = Checkpointer(folder / "stage", False, in_background)
        with slow_commit():
            checkpoints.save(3, state_of(3), {"step": 3, "note": "x"}, None)
            assert written(folder) != in_background
            checkpoints.wait()
        assert written(folder)
        found.append(checkpoints.restore_latest(state_of(0)))
        checkpoints.close()
    (ours, host), (theirs, their_host) = found
    assert_trees_equal(ours, theirs)
    assert host == their_host == {"step": 3, "note": "x"}


@contextlib.contextmanager
def slow_commit():
    """Renames of files take a moment, so that a thread that writes is seen at it."""
    rename = os.rename

    def later(*names, **options):
        time.sleep(0.3)
        rename(*names, **options)

    os.rename = later
    try:
        yield
    finally:
        os.rename = rename


def test_nothing_saved_is_nothing_found(opened):
    assert opened().restore_latest(state_of(0)) is None


def test_what_is_donated_after_saving_is_saved_as_it_was(opened):
    checkpoints = opened()
    state = state_of(2)
    checkpoints.save(2, state, {"step": 2, "note": "x"}, None)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    jax.block_until_ready(overwrite(state))
    checkpoints.wait()
    assert_resumes_at(checkpoints, 2)


def test_the_two_newest_and_the_best_are_kept(opened, tmp_path):
    checkpoints = opened(track_best=True)
    for step, metric in enumerate((0.1, 0.9, 0.2, 0.3, 0.4), start=1):
        save(checkpoints, step, metric)
    assert kept(tmp_path) == [2, 4, 5]
    assert_trees_equal(checkpoints.restore_best(state_of(0)), state_of(2))
    assert_resumes_at(opened(track_best=True), 5)


def test_without_a_metric_the_two_newest_are_kept(opened, tmp_path):
    checkpoints = opened()
    for step in (1, 2, 3, 4):
        save(checkpoints, step)
    assert kept(tmp_path) == [3, 4]
    assert_trees_equal(checkpoints.restore_best(state_of(0)), state_of(4))


def truncate(folder):
    """Cut every file of a checkpoint in half."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            os.truncate(path, path.stat().st_size // 2)


def cut_arrays(folder):
    """Lose half of the array data and leave the rest."""
    largest = max(folder.rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def empty(folder):
    """What a kill between mkdir and rename may leave on a local file system."""
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize("track_best", (False, True))
@pytest.mark.parametrize("damage", (truncate, cut_arrays, empty))
def test_a_damaged_newest_is_passed_over_and_written_again(
    opened, tmp_path, caplog, damage, track_best
):
    checkpoints = opened(track_best)
    for step in (2, 3):
        save(checkpoints, step, 0.1 * step if track_best else None)
    checkpoints.close()
    damage(tmp_path / "stage" / "3")
    checkpoints = opened(track_best)
    with caplog.at_level(logging.WARNING, "jaxrobust"):
        assert_resumes_at(checkpoints, 2)
    assert "stage/3 cannot be read" in caplog.text and "falling back" in caplog.text
    save(checkpoints, 3, 0.3 if track_best else None)
    checkpoints = opened(track_best)
    assert_resumes_at(checkpoints, 3)
    assert_trees_equal(checkpoints.restore_best(state_of(0)), state_of(3))


def test_an_empty_directory_of_a_later_step_does_not_swallow_saves(opened, tmp_path):
    checkpoints = opened()
    save(checkpoints, 2)
    (tmp_path / "stage" / "9").mkdir()
    checkpoints = opened()
    assert_resumes_at(checkpoints, 2)
    save(checkpoints, 4)
    assert_resumes_at(opened(), 4)


def test_all_damaged_is_one_line_and_nothing_is_removed(opened, tmp_path):
    checkpoints = opened()
    for step in (2, 3):
        save(checkpoints, step)
    checkpoints.close()
    for step in (2, 3):
        empty(tmp_path / "stage" / str(step))
    with pytest.raises(UserError, match="choose another --workdir or") as caught:
        opened().restore_latest(state_of(0))
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == [2, 3]


def test_a_checkpoint_of_another_network_is_refused_and_left_alone(opened, tmp_path):
    save(opened(), 2)
    with pytest.raises(UserError, match="from another run") as caught:
        opened().restore_latest(state_of(0, TinyNet(norm=True, hidden=9)))
    assert "\n" not in str(caught.value)
    assert_resumes_at(opened(), 2)


def test_a_damaged_best_is_the_users_to_remove(opened, tmp_path):
    checkpoints = opened(track_best=True)
    for step, metric in ((1, 0.9), (2, 0.1), (3, 0.2)):
        save(checkpoints, step, metric)
    checkpoints.close()
    truncate(tmp_path / "stage" / "1" / "state")
    with pytest.raises(UserError, match="stage/1 cannot be read") as caught:
        opened(track_best=True).restore_best(state_of(0))
    assert "\n" not in str(caught.value)


def test_an_error_without_words_still_falls_back(opened, monkeypatch):
    checkpoints = opened()
    for step in (2, 3):
        save(checkpoints, step)
    restore = checkpoints._restore

    def moody(step, like):
        assert step != 3
        return restore(step, like)

    monkeypatch.setattr(checkpoints, "_restore", moody)
    assert_resumes_at(checkpoints, 2)
