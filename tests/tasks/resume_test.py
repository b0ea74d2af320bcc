"""A killed run goes on by the same command, to the same bytes."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrobust import tree
from tests import runs

LONGER = (
    "--config=configs/hybrid.py:smoke",
    "--config.train.num_steps=48",
    "--config.train.checkpoint_every_steps=8",
    "--config.train.ema_decay=0.9",
    "--config.reconstruct.round_steps=48",
    "--config.generator.train.num_steps=48",
)
ADAPTIVE = (
    "--config=configs/data_selection.py:smoke",
    "--config.compare=('ds_adaptive',)",
    "--config.methods.ds_adaptive.select.sizes=(1.0, 0.5)",
    "--config.methods.ds_adaptive.select.count_minimum=False",
    "--config.methods.ds_adaptive.attack.num_steps=2",
    "--config.model.widths=(8,)",
    "--config.optim.learning_rate=0.003",
    "--config.train.num_steps=120",
    "--config.train.checkpoint_every_steps=8",
    "--config.train.probe_every_steps=0",
    "--config.train.ema_decay=0.9",
)
EPOCH_STEPS = 5
"""Of ADAPTIVE: 80 images in batches of 16. Checkpoints fall inside epochs as well."""


def arrays_of(state: Path) -> dict:
    """The training state in a checkpoint, as nested dicts."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        return reader.restore(state.resolve())


def final_digests(workdir: Path) -> dict[str, str]:
    """sha256 of the arrays of every stage's last checkpoint, and of every manifest."""
    found = {}
    for folder in sorted((workdir / "checkpoints").rglob("default")):
        raise AssertionError(f"unexpected layout {folder}")
    for state in sorted((workdir / "checkpoints").rglob("state")):
        step, stage = state.parent.name, state.parent.parent
        if int(step) != max(int(p.name) for p in stage.iterdir() if p.name.isdigit()):
            continue
        name = str(stage.relative_to(workdir))
        found[f"{name}/{step}"] = tree.digest(arrays_of(state))
    for path in sorted(workdir.glob("selections/seed*.npz")):
        with np.load(path) as stored:
            found[path.name] = tree.digest(dict(stored))
    return found


def finish(recipe: tuple[str, ...], workdir: Path) -> dict[str, str]:
    """Run to the end, from wherever the run stands; what it leaves."""
    runs.run(workdir, *recipe)
    return final_digests(workdir)


def start(recipe: tuple[str, ...], workdir: Path) -> subprocess.Popen:
    return runs.start(*recipe, f"--workdir={workdir}")


@pytest.fixture(scope="module")
def uninterrupted(finished) -> dict[str, str]:
    digests = final_digests(finished("hybrid", *LONGER[1:]))
    assert len(digests) == 1 + 2 + 4 + 4, sorted(digests)
    return digests


def saves(workdir: Path) -> int:
    """How often this directory's stages have saved so far."""
    lines = workdir / "metrics.jsonl"
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


def interrupt(workdir: Path, chance: random.Random, how: signal.Signals) -> int:
    """Start the run, send `how` at a random moment of its progress."""
    process = start(LONGER, workdir)
    until = saves(workdir) + chance.randint(1, 25)
    while process.poll() is None and saves(workdir) < until:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))
    if process.poll() is None:
        os.kill(process.pid, how)
    return runs.wait(process).status


def kills(workdir: Path, chance: random.Random, times: int) -> int:
    """Kill the run `times` times; how many kills met a living run."""
    return sum(
        interrupt(workdir, chance, signal.SIGKILL) == -signal.SIGKILL
        for _ in range(times)
    )


def test_kill_nine_changes_no_byte(uninterrupted, tmp_path):
    assert kills(tmp_path / "run", random.Random(0), times=2) == 2
    assert finish(LONGER, tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_kill_nine_at_five_random_moments_changes_no_byte(uninterrupted, tmp_path):
    chance = random.Random(time.time_ns())
    assert kills(tmp_path / "run", chance, times=5) >= 3
    assert finish(LONGER, tmp_path / "run") == uninterrupted


def test_sigterm_saves_and_says_how_to_go_on(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = start(LONGER, workdir)
    deadline = time.monotonic() + 120
    while not list(workdir.glob("checkpoints/generator/8*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stopped = runs.wait(process, timeout=120)
    assert stopped.status == 143, stopped.stderr
    assert "the same command goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert finish(LONGER, workdir) == uninterrupted


def saved(workdir: Path) -> dict[int, Path]:
    """The arrays of each checkpoint, by step; the last may be half written."""
    found = workdir.glob("checkpoints/seed0/ds_adaptive-original/[0-9]*/state")
    steps = {int(p.parent.name): p for p in found if p.parent.name.isdigit()}
    return dict(sorted(steps.items()))


def test_kill_nine_changes_no_byte_of_an_adaptive_selection(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed, process = start(ADAPTIVE, whole), start(ADAPTIVE, killed)
    # A second checkpoint is begun when the first is whole.
    while process.poll() is None and len(saved(killed)) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert runs.wait(process).status == -signal.SIGKILL
    first, *_, last = saved(killed)
    assert EPOCH_STEPS < first < last < 120
    memory = arrays_of(saved(killed)[first])["select_state"]
    assert 0 < memory["p_up"] < 1 and 0 < memory["steps"] < EPOCH_STEPS
    whole_run = runs.wait(undisturbed)
    assert whole_run.status == 0, whole_run.stderr
    expected = final_digests(whole)
    assert [name.split("/")[-1] for name in expected] == ["120"]
    assert finish(ADAPTIVE, killed) == expected
