"""The evaluation of a smoke run: its table, its card, its files, and its mistakes."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrobust.attacks import ATTACKS
from tests import runs
from tests.runs import assert_not_redone, assert_one_line_mistake, run

FOLDER = Path("evaluation/seed0/pgd_at-hybrid")


def options(smoke, *more):
    checkpoint = f"--config.checkpoint={smoke}"
    return ("--config=configs/evaluate.py:smoke", checkpoint, *more)


@pytest.fixture(scope="module")
def evaluated(finished, smoke):
    return finished("evaluate", f"--config.checkpoint={smoke}")


def test_the_row_says_all_that_was_measured(evaluated):
    (row,) = runs.results(evaluated)["runs"]
    assert row["name"] == "pgd_at / hybrid" and row["seed"] == 0
    for key in ("clean_acc", "noise_acc", "fgsm_acc", "pgd_acc", "cw_acc", "aa_acc"):
        assert 0 <= row[key] <= 1
    assert row["suite_name"].startswith("lite suite, not AutoAttack")
    assert list(row["by_attack"]) == ["apgd-ce", "apgd-t"]
    assert row["by_attack"]["apgd-t"] == row["aa_acc"] <= row["by_attack"]["apgd-ce"]
    eps = [point[0] for point in row["eps_curve"]]
    assert eps == sorted(eps) and eps[-1] == 1.0
    assert sum(count for _, _, count in row["per_class"].values()) == 10
    low, high = row["interval"]
    assert low <= row["aa_acc"] <= high


def test_the_card_holds_every_check_by_name(evaluated):
    card = runs.card(evaluated)
    names = {check["name"].split(": ")[1] for check in card["checks"]}
    assert {
        "logits are not probabilities",
        "the network is deterministic",
        "rows do not depend on the batch",
        "gradients reach the image",
        "cross-entropy is not saturated",
        "accuracy falls with eps",
        "an unbounded attack reaches zero",
        "noise hurts far less than the attack",
        "attacks stay in the ball",
        "flags agree with a recount",
        "attacks survive 8-bit rounding",
        "successes hold in float32",
        "enough images",
    } <= names
    assert card["data"]["test_sha256"]


def test_stored_images_carry_their_own_proof(evaluated):
    with np.load(evaluated / FOLDER / "adversarial.npz") as file:
        found = dict(file)
    image = found["image"].astype(np.float32) / 255
    away = abs(found["x_adv"] - image).reshape(len(image), -1).max(1)
    fooled = found["fooled_by"] >= 0
    assert away.max() <= 0.15 + 1e-6 and (away[~fooled] < 1e-6).all()
    np.testing.assert_array_equal(found["robust"], found["clean"] & ~fooled)
    right = found["prediction"] == found["label"]
    np.testing.assert_array_equal(right, found["robust"])
    assert sorted(os.listdir(evaluated / FOLDER)) == ["adversarial.npz"]


def test_a_control_that_leaves_the_ball_is_caught(smoke, tmp_path, monkeypatch):
    def runaway(threat):
        return lambda keys, logits_fn, image, _: threat.clip(image + 2 * threat.eps)

    monkeypatch.setitem(ATTACKS, "random_noise", runaway)
    workdir = tmp_path / "run"
    run(workdir, *options(smoke))
    (row,) = runs.results(workdir)["runs"]
    assert row["max_distance"] == pytest.approx(2 * row["eps"])
    card = runs.card(workdir)
    (check,) = (c for c in card["checks"] if c["name"].endswith("stay in the ball"))
    assert not check["ok"] and f"{2 * row['eps']:.6f}" in check["value"]


def test_the_report_shows_the_curve(evaluated):
    page = (evaluated / "report.html").read_text()
    assert "pgd_at / hybrid" in page and "lite suite" in page


def test_a_repeated_command_attacks_nothing_again(evaluated, smoke, tmp_path):
    stored = FOLDER / "adversarial.npz"
    workdir = assert_not_redone(evaluated, tmp_path, *options(smoke))
    stamps = [(path / stored).stat().st_mtime_ns for path in (evaluated, workdir)]
    assert stamps[0] == stamps[1]


def test_another_radius_is_one_option(smoke, tmp_path):
    workdir = tmp_path / "run"
    more = ("--config.threat.eps=0.02", "--config.threat.norm=l2")
    run(workdir, *options(smoke, *more))
    (row,) = runs.results(workdir)["runs"]
    assert (row["norm"], row["eps"]) == ("l2", 0.02)


STANDARD = ("--config.suite=autoattack", "--config.data.test_limit=30")


def flags(workdir):
    with np.load(workdir / FOLDER / "adversarial.npz") as file:
        return {name: file[name] for name in ("fooled_by", "robust", "x_adv")}


def test_kill_nine_changes_no_flag(smoke, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, *options(smoke, *STANDARD))
    chance, killed = random.Random(0), 0
    for _ in range(2):
        process = runs.start(*options(smoke, *STANDARD), f"--workdir={cut}")
        while process.poll() is None and not (cut / FOLDER / "ledger.npz").exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        killed += runs.wait(process).status == -signal.SIGKILL
    assert killed >= 1
    run(cut, *options(smoke, *STANDARD))
    for name, value in flags(whole).items():
        np.testing.assert_array_equal(flags(cut)[name], value)


@pytest.mark.parametrize(
    "option,message",
    (
        ("--config.checkpoint=nowhere", "no config.json in nowhere"),
        ("--config.checkpoint=", "no network"),
        ("--config.networks=('pgd_at / hybird',)", "choose from"),
        ("--config.seeds=(7,)", "its seeds are"),
        ("--config.suite=everything", "choose from"),
        ("--config.threat.eps=8.0", "looks like 8-bit units"),
        ("--config.threat.norm=l3", "choose from"),
        ("--config.suites.fast.version=slow", "choose from"),
        ("--config.suites.fast.version=rand", "take keys"),
        ("--config.checkpoint=net.pt", "does not say what it was trained for"),
    ),
)
def test_a_mistake_is_one_line_and_writes_nothing(option, message, smoke, tmp_path):
    assert_one_line_mistake(tmp_path / "run", options(smoke, option), message)


def test_the_examined_run_is_left_as_it_was(smoke, evaluated):
    assert not (smoke / "evaluation").exists()
