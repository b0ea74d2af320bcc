"""The prepared hour: stages in order, each once; what is missing in one line."""

import os

import pytest

from tests.launch import clusters

STUB = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then [[ $2 != "import ${LACKS:-nothing}" ]]; exit; fi
echo "$@" >> "$CALLS"
for word in "$@"; do
  case $word in --workdir=*) mkdir -p "${word#*=}"; touch "${word#*=}/card.json" ;; esac
done
[[ -z ${BREAKS:-} || "$*" != *"$BREAKS"* ]]
"""
"""A `python` that notes its arguments and leaves a card in the run directory."""


@pytest.fixture
def hour(tmp_path):
    """(environment -> how the script ended, commands that it started)."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(STUB)
    program.chmod(0o755)
    (tmp_path / "cifar").mkdir()
    calls = tmp_path / "calls"

    def run(*wheels, **environment):
        calls.write_text("")
        path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
        command = [
            "launch/gpu_hour.sh",
            str(tmp_path / "cifar"),
            str(tmp_path / "work"),
        ]
        given = {"PATH": path, "CALLS": str(calls), **environment}
        ended = clusters.end(_start([*command, *wheels], given))
        return ended, calls.read_text().splitlines()

    return run


def _start(command, given):
    # The stub must come before this interpreter, which `start` puts first.
    return clusters.start(["env", f"PATH={given.pop('PATH')}", *command], **given)


def names(calls):
    return [
        next(
            (word.rpartition("/")[2] for word in call.split() if "--workdir" in word),
            "bench",
        )
        for call in calls
    ]


ALL = ["bench", "profile", "train", "hybrid", "train-autoattack", "hybrid-autoattack"]


def test_stages_run_in_order_and_once(hour, tmp_path):
    ended, calls = hour()
    assert ended.status == 0, ended.stdout
    assert names(calls) == ALL
    assert calls[0].startswith("-m tests.bench --out")
    assert f"--config.data.path={tmp_path}/cifar" in calls[2]
    assert "--config.data.name=folder" in calls[2]
    assert "compare=('pgd_at','trades','nfgsm')" in calls[2]
    assert "all done" in (tmp_path / "work/log.txt").read_text()
    again, calls = hour()
    assert again.status == 0 and calls == []


def test_a_failed_stage_is_named_and_done_again(hour):
    ended, calls = hour(BREAKS="'trades'")
    assert ended.status == 1 and names(calls) == ALL
    assert "not done: train\n" in ended.stdout
    again, calls = hour()
    assert again.status == 0 and names(calls) == ["train"]


def test_a_missing_package_is_one_line(hour, tmp_path):
    ended, calls = hour(LACKS="ml_collections")
    assert ended.status == 2 and calls == []
    (line,) = ended.stdout.splitlines()
    assert "ml_collections is missing" in line and "--find-links WHEELS" in line
    ended, calls = hour(str(tmp_path), LACKS="ml_collections")
    assert ended.status == 0 and names(calls)[1:] == ALL
    assert calls[0].endswith(f"--no-index --find-links {tmp_path} ml_collections")


def test_npz_files_and_a_pool(hour, tmp_path):
    (tmp_path / "cifar/train.npz").touch()
    (tmp_path / "pool.npz").touch()
    ended, calls = hour(POOL=str(tmp_path / "pool.npz"), STAGES="hybrid")
    assert ended.status == 0 and names(calls) == ["hybrid"]
    assert "--config.data.name=npz" in calls[0]
    assert f"--config.generated.path={tmp_path}/pool.npz" in calls[0]
