"""The run that every launch script must repeat."""

import fcntl
import os
from pathlib import Path

import pytest

pytest.importorskip("ml_collections", reason="recipes are ml_collections configs")

from tests.launch import clusters


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Path:
    """The finished directory of one process, by local.sh; not to be changed."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    workdir = folder / "launched-alone"
    with open(folder / "launched-alone.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "report.html").exists():
            arguments = [*clusters.CONFIG, f"--workdir={workdir}"]
            ended = clusters.run(["launch/local.sh", *arguments])
            assert ended.status == 0, ended.stderr
    return workdir
