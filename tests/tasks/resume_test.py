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
from tests.tasks.conftest import ROOT, command, environment, run_cli

LONGER = (
    "--config=configs/hybrid.py:smoke",
    "--config.train.num_steps=48",
    "--config.train.checkpoint_every_steps=8",
    "--config.train.ema_decay=0.9",
    "--config.reconstruct.round_steps=48",
    "--config.generator.train.num_steps=48",
)


def final_digests(workdir: Path) -> dict[str, str]:
    """sha256 of the arrays of every stage's last checkpoint, and of every manifest."""
    import orbax.checkpoint as ocp

    found = {}
    for folder in sorted((workdir / "checkpoints").rglob("default")):
        raise AssertionError(f"unexpected layout {folder}")
    for state in sorted((workdir / "checkpoints").rglob("state")):
        step, stage = state.parent.name, state.parent.parent
        if int(step) != max(int(p.name) for p in stage.iterdir() if p.name.isdigit()):
            continue
        with ocp.StandardCheckpointer() as reader:
            arrays = reader.restore(state.resolve())
        name = str(stage.relative_to(workdir))
        found[f"{name}/{step}"] = tree.digest(arrays)
    for path in sorted(workdir.glob("selections/seed*.npz")):
        with np.load(path) as stored:
            found[path.name] = tree.digest(dict(stored))
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, str]:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = run_cli(*LONGER, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    digests = final_digests(workdir)
    assert len(digests) == 1 + 2 + 4 + 4, sorted(digests)
    return digests


def saves(workdir: Path) -> int:
    """How often this directory's stages have saved so far."""
    lines = workdir / "metrics.jsonl"
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


def interrupt(workdir: Path, chance: random.Random, how: signal.Signals) -> int:
    """Start the run, send `how` at a random moment of its progress."""
    process = subprocess.Popen(
        command(*LONGER, f"--workdir={workdir}"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = saves(workdir) + chance.randint(1, 25)
    while process.poll() is None and saves(workdir) < until:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))
    if process.poll() is None:
        os.kill(process.pid, how)
    process.communicate(timeout=300)
    return process.returncode


def kill_and_finish(workdir: Path, chance: random.Random, times: int) -> int:
    """Kill the run `times` times, then let it end; how many kills met a living run."""
    killed = sum(
        interrupt(workdir, chance, signal.SIGKILL) == -signal.SIGKILL
        for _ in range(times)
    )
    done = run_cli(*LONGER, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return killed


def test_kill_nine_changes_no_byte(uninterrupted, tmp_path):
    assert kill_and_finish(tmp_path / "run", random.Random(0), times=2) == 2
    assert final_digests(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_kill_nine_at_five_random_moments_changes_no_byte(uninterrupted, tmp_path):
    chance = random.Random(time.time_ns())
    assert kill_and_finish(tmp_path / "run", chance, times=5) >= 3
    assert final_digests(tmp_path / "run") == uninterrupted


def test_sigterm_saves_and_says_how_to_go_on(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command(*LONGER, f"--workdir={workdir}"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(workdir.glob("checkpoints/generator/8*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "the same command goes on" in errors and "Traceback" not in errors
    done = run_cli(*LONGER, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert final_digests(workdir) == uninterrupted
