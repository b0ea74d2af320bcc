"""One program on any number of devices and processes."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.tasks.conftest import ROOT, command, environment, run_cli

CONFIG = (
    "--config=configs/adversarial.py:smoke",
    "--config.compare=('pgd_at',)",
    "--config.eval.batch_size=48",
    "--config.data.test_limit=50",
    "--config.train.num_steps=4",
    "--config.train.chunk_steps=2",
)


def history(workdir) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def results(workdir) -> dict:
    return json.loads((workdir / "results.json").read_text())["rows"][0]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    done = run_cli(*CONFIG, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def assert_same_run(found, expected):
    """Equal but for the drift that sign() makes of rounding at zero gradients."""
    for ours, theirs in zip(history(found), history(expected), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=2e-3)
    for key in ("clean_acc", "pgd_acc"):
        assert abs(results(found)[key] - results(expected)[key]) <= 0.04


def test_eight_devices_give_the_result_of_one(one_device, tmp_path):
    workdir = tmp_path / "run"
    eight = "--xla_force_host_platform_device_count=8"
    done = run_cli(*CONFIG, f"--workdir={workdir}", XLA_FLAGS=eight)
    assert done.returncode == 0, done.stderr
    card = json.loads((workdir / "card.json").read_text())
    assert card["device"].startswith("8 x")
    assert_same_run(workdir, one_device)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    eight = "--xla_force_host_platform_device_count=8"
    done = run_cli(
        *CONFIG,
        f"--workdir={tmp_path / 'run'}",
        "--config.train.batch_size=12",
        XLA_FLAGS=eight,
    )
    assert done.returncode == 2 and "divide over 8 devices" in done.stderr


def test_two_processes_form_one_group(one_device, tmp_path):
    workdir = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = [
        subprocess.Popen(
            [
                *command(*CONFIG, f"--workdir={workdir}"),
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={number}",
            ],
            cwd=ROOT,
            env=environment(XLA_FLAGS="--xla_force_host_platform_device_count=2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in group]
    finally:
        for process in group:
            process.kill()
    for process, (_, errors) in zip(group, said):
        assert process.returncode == 0, errors[-3000:]
    card = json.loads((workdir / "card.json").read_text())
    assert card["device"].startswith("4 x") and "2 process(es)" in card["device"]
    assert "pgd_at / original" in said[0][0] and "pgd_at" not in said[1][0]
    assert_same_run(workdir, one_device)


def test_a_process_number_beyond_the_group_is_refused(tmp_path):
    done = subprocess.run(
        [
            *[sys.executable, "-m", "jaxrobust.main", *CONFIG],
            f"--workdir={tmp_path / 'run'}",
            "--coordinator=127.0.0.1:1",
            "--num_processes=2",
            "--process_id=2",
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "--process_id" in done.stderr
