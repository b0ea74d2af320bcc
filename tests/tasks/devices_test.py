"""One program on any number of devices and processes."""

import json

import numpy as np
import pytest

from tests import runs
from tests.groups import start_group

CONFIG = (
    "--config=configs/adversarial.py:smoke",
    "--config.compare=('pgd_at',)",
    "--config.eval.batch_size=48",
    "--config.data.test_limit=50",
    "--config.train.num_steps=4",
    "--config.train.chunk_steps=2",
)

DEVICES = "--xla_force_host_platform_device_count={}"


def history(workdir) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture(scope="module")
def one_device(finished):
    return finished("adversarial", *CONFIG[1:])


def assert_same_run(found, expected):
    """Equal but for the drift that sign() makes of rounding at zero gradients."""
    for ours, theirs in zip(history(found), history(expected), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=2e-3)
    ours, theirs = (runs.results(path)["rows"][0] for path in (found, expected))
    for key in ("clean_acc", "pgd_acc"):
        assert abs(ours[key] - theirs[key]) <= 0.04


def test_eight_devices_give_the_result_of_one(one_device, tmp_path):
    workdir = tmp_path / "run"
    runs.run_process(workdir, *CONFIG, "--cpu_devices=8")
    assert runs.card(workdir)["device"].startswith("8 x")
    assert_same_run(workdir, one_device)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    given = (*CONFIG, f"--workdir={tmp_path / 'run'}", "--config.train.batch_size=12")
    ended = runs.wait(runs.start(*given, XLA_FLAGS=DEVICES.format(8)))
    runs.assert_mistake(ended, "divide over 8 devices")


def test_two_processes_form_one_group(one_device, tmp_path):
    """Each reads its own rows of the images, which one device holds all of."""
    workdir = tmp_path / "run"
    group = start_group(workdir, 2, *CONFIG, "--config.train.device_gb=0.0")
    try:
        lead, other = (runs.wait(process, timeout=240) for process in group)
    finally:
        for process in group:
            process.kill()
    for ended in (lead, other):
        assert ended.status == 0, ended.stderr[-3000:]
    device = runs.card(workdir)["device"]
    assert device.startswith("4 x") and "2 process(es)" in device
    assert "pgd_at / original" in lead.stdout and "pgd_at" not in other.stdout
    assert_same_run(workdir, one_device)


def test_a_process_number_beyond_the_group_is_refused(tmp_path):
    process = runs.start(
        *CONFIG,
        f"--workdir={tmp_path / 'run'}",
        "--coordinator=127.0.0.1:1",
        "--num_processes=2",
        "--process_id=2",
    )
    runs.assert_mistake(runs.wait(process, timeout=60), "--process_id")
