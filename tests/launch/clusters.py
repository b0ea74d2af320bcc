"""Clusters on this machine: the programs and variables of each, with real processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np

from tests import runs
from tests.helpers import ROOT

FAKES = Path(__file__).parent / "fakes"

CONFIG = (
    "--config=configs/adversarial.py:smoke",
    "--config.compare=('pgd_at',)",
    "--config.data.train_limit=32",
    "--config.data.val_count=0",
    "--config.data.test_limit=20",
    "--config.model.widths=(8,)",
    "--config.methods.pgd_at.attack.num_steps=2",
    "--config.train.num_steps=4",
    "--config.train.chunk_steps=2",
    "--config.train.probe_every_steps=0",
    "--config.eval.batch_size=20",
    "--config.eval.attacks.pgd.num_steps=2",
    "--config.eval.attacks.cw.num_steps=2",
)
"""The least that trains, saves halfway, attacks and reports."""


def start(command: list[str], **environment: str) -> subprocess.Popen:
    """A command in a session of its own, where the fakes come first on PATH."""
    python = str(Path(sys.executable).parent)
    given = {
        "PATH": os.pathsep.join([str(FAKES), python, os.environ["PATH"]]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "",
        # A host with a home of its own need not list the fonts again.
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        **environment,
    }
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen, timeout: float = 240) -> runs.Ended:
    """How it ended; nothing that it started outlives it."""
    try:
        return runs.wait(process, timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run(command: list[str], **environment: str) -> runs.Ended:
    """A command, to its end."""
    return end(start(command, **environment))


def run_group(members: list[tuple[list[str], dict[str, str]]]) -> None:
    """Commands that need one another, each with its own variables, to their good
    end."""
    group = [start(command, **environment) for command, environment in members]
    try:
        for ended in [end(process) for process in group]:
            assert ended.status == 0, ended.stderr[-3000:]
    finally:
        for process in group:
            process.kill()


def stub_path(folder: Path, body: str) -> str:
    """A PATH where `python -m jaxrobust.main` is `body`, some lines of bash, and
    `python -c`, which asks for a free port, prints 1."""
    program = folder / "stub" / "python"
    program.parent.mkdir()
    program.write_text(
        f"#!/usr/bin/env bash\nif [[ $1 == -c ]]; then echo 1; exit; fi\n{body}\n"
    )
    program.chmod(0o755)
    return os.pathsep.join([str(program.parent), str(FAKES), os.environ["PATH"]])


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def assert_group_of_two(workdir: Path, alone: Path) -> None:
    """Two processes did what one did, but for the drift that sign() makes of rounding
    at zero gradients."""
    device = runs.card(workdir)["device"]
    assert device.startswith("2 x") and "2 process(es)" in device
    ours, theirs = losses(workdir), losses(alone)
    assert list(ours) == list(theirs) == [2, 4]
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-3)
    one_image = 1.01 / 20
    ours, theirs = (runs.results(path)["rows"][0] for path in (workdir, alone))
    for key in ("clean_acc", "pgd_acc", "cw_acc"):
        assert abs(ours[key] - theirs[key]) <= one_image


def losses(workdir: Path) -> dict[int, float]:
    """The training loss by step; after a resume the later line of a step counts."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if "loss" in line]
    return {line["step"]: line["loss"] for line in found}
