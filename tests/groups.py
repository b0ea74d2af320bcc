"""Two processes that train together on this machine, and how they are killed."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests import runs

QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
"""Compiles five times faster, what runs for a moment."""


def start_group(workdir: Path, devices: int, *arguments: str) -> list[subprocess.Popen]:
    """Two processes with so many devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        runs.start(
            *arguments,
            f"--workdir={workdir}",
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            f"--cpu_devices={devices}",
            **QUICK,
        )
        for number in range(2)
    ]


def kill_at(checkpoint: Path, group: list[subprocess.Popen]) -> None:
    """With -9 as soon as it is begun; then the one before is whole."""
    try:
        _wait_for(checkpoint, group)
        for process in group:
            os.kill(process.pid, signal.SIGKILL)
        killed = [runs.wait(process).status for process in group]
    finally:
        for process in group:
            process.kill()
    assert killed == [-signal.SIGKILL] * 2


def _wait_for(checkpoint: Path, group: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 240
    while not list(checkpoint.parent.glob(f"{checkpoint.name}*")):
        assert time.monotonic() < deadline, checkpoint
        for process in group:
            assert process.poll() is None, runs.wait(process).stderr[-3000:]
        time.sleep(0.01)


def layouts(checkpoint: Path) -> list[dict]:
    """How each array lay when it was saved."""
    stored = json.loads((checkpoint / "state" / "_sharding").read_text())
    return [json.loads(layout) for layout in stored.values()]


def losses(workdir: Path) -> dict[tuple[str, int], float]:
    """By stage and step; after a resume the later line of a step counts."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if "loss" in line]
    return {(line["stage"], line["step"]): line["loss"] for line in found}
