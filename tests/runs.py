"""The program as a user starts it: in this process, or in one of its own where a test
needs other devices, a group of processes or a kill."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from jaxrobust.main import EXIT_USER, main
from tests.helpers import ROOT


class Ended(NamedTuple):
    """How a run ended, and what it said."""

    status: int
    stdout: str
    stderr: str


def call(*arguments: str) -> Ended:
    """The program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["jaxrobust", *arguments])
    return Ended(status, out.getvalue(), err.getvalue())


def run(workdir: Path, *arguments: str) -> Ended:
    """The program in this process, to its good end."""
    ended = call(*arguments, f"--workdir={workdir}")
    assert ended.status == 0, ended.stderr
    return ended


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    """The program in a process of its own, which inherits what conftest.py sets."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxrobust.main", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen, timeout: float = 600) -> Ended:
    """The end of a process of `start`; it does not outlive the time given."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def run_process(workdir: Path, *arguments: str, **environment: str) -> Ended:
    """A process of its own, to its good end."""
    ended = wait(start(*arguments, f"--workdir={workdir}", **environment))
    assert ended.status == 0, ended.stderr
    return ended


def finish_once(folder: Path, recipe: str, *arguments: str) -> Path:
    """The directory of a finished smoke run below `folder`, made by whoever asks first.

    It belongs to all tests of all workers: who writes works on a copy. What the run
    printed lies beside it in stdout.txt.
    """
    given = (f"--config=configs/{recipe}.py:smoke", *arguments)
    place = folder / f"{recipe}-{hashlib.sha256(repr(given).encode()).hexdigest()[:8]}"
    place.mkdir(parents=True, exist_ok=True)
    printed = place / "stdout.txt"
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            printed.write_text(run(place / "run", *given).stdout)
    return place / "run"


def copied(workdir: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return shutil.copytree(workdir, tmp_path / "run")


def results(workdir: Path) -> dict[str, Any]:
    """The contents of results.json."""
    return json.loads((workdir / "results.json").read_text())


def rows(workdir: Path) -> dict[str, dict[str, Any]]:
    """The table of results, by name."""
    return {row["name"]: row for row in results(workdir)["rows"]}


def card(workdir: Path) -> dict[str, Any]:
    """The contents of card.json."""
    return json.loads((workdir / "card.json").read_text())


def assert_mistake(ended: Ended, *hints: str) -> None:
    """One line that says all `hints`, and the exit status of a user's mistake."""
    assert ended.status == EXIT_USER, ended.stderr
    lines = ended.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("jaxrobust: "), ended.stderr
    for hint in hints:
        assert hint in lines[0]


def assert_one_line_mistake(workdir: Path, arguments: tuple[str, ...], *hints: str):
    """`arguments` are a user's mistake, and nothing is written."""
    assert not workdir.exists()
    assert_mistake(call(*arguments, f"--workdir={workdir}"), *hints)
    assert not workdir.exists(), "something was written"


def assert_not_redone(finished: Path, tmp_path: Path, *arguments: str) -> Path:
    """The same command again trains nothing and finds the same; the copy it ran in."""
    workdir = copied(finished, tmp_path)
    run(workdir, *arguments)
    for name in ("results.json", "metrics.jsonl"):
        if (finished / name).exists():
            assert (workdir / name).read_bytes() == (finished / name).read_bytes()
    assert "resuming" not in (workdir / "log.txt").read_text()
    return workdir
