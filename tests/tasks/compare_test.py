"""A comparison of choices: complete, fair, resumable, and of use to others."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.finished import open_run
from jaxrobust.selection import load_manifest
from jaxrobust.tasks.networks import load_network
from tests import runs

RECIPE = "--config=configs/compare.py:smoke"
CHOICES = {"before", "full", "grand_mid", "loss_again", "random", "random_redrawn"}
CHOICES |= {"stability"}


@pytest.fixture(scope="module")
def compared(finished):
    return finished("compare")


def accuracies(workdir):
    return {
        row["name"]: {k: v for k, v in row.items() if k.endswith("_acc")}
        for row in runs.results(workdir)["runs"]
        if row["rule"] == "steps"
    }


def test_every_choice_meets_random_of_its_budget(compared):
    rows = runs.results(compared)["rows"]
    equal = {(row["choice"], row["budget"]) for row in rows if row["rule"] == "steps"}
    assert {choice for choice, _ in equal} == CHOICES
    for choice, budget in equal:
        assert choice == "full" or ("random", budget) in equal
    for row in rows:
        images = 40 if choice_takes_a_subset(row["choice"]) else 100
        assert row["train_images"] == images
        assert row["steps"] == 8 or row["rule"] == "time"
        assert row["by_chance"] == row["choice"].startswith("random")


def choice_takes_a_subset(choice):
    return choice not in ("full", "before")


def test_seconds_and_operations_hold_what_choosing_took(compared):
    rows = runs.rows(compared)
    for row in rows.values():
        keys = ("attack", "train", "rounds", "score", "select")
        total = sum(row[f"{key}_seconds"] for key in keys)
        assert row["total_seconds"] == pytest.approx(total)
        learns = row["choice"] in ("grand_mid", "stability")
        assert (row["rounds_seconds"] > 0) == learns
        if row["rule"] == "steps":
            scores = learns or row["choice"] == "loss_again"
            assert (row["score_seconds"] > 0) == scores
    flops = {
        row["choice"]: row["flops"] for row in rows.values() if row["rule"] == "steps"
    }
    assert flops["random"] == flops["full"] == flops["random_redrawn"]
    assert flops["before"] < flops["random"] < flops["loss_again"] < flops["stability"]


def test_random_choice_is_its_own_measure_of_time(compared):
    rows = runs.rows(compared)
    for name in ("random / 40%", "random_redrawn / 40%", "full / 100%"):
        other = rows[f"{name} equal time"]
        changed = {"name": other["name"], "rule": "time", "same_as": name}
        assert {**rows[name], **changed} == other


def test_its_networks_can_be_evaluated_each_once(compared, mesh):
    run = open_run(str(compared))
    found = run.find((), (0,))
    names = [row["name"] for row in found]
    assert {f"{c} / 40%" for c in CHOICES - {"full"}} | {"full / 100%"} <= set(names)
    assert "random / 40% equal time" not in names
    splits = data.load_splits(**run.config["data"])
    (row,) = run.find(("random / 40% equal time",), (0,))
    network = load_network(run, row, splits, mesh, "")
    image = splits.test.image[:].astype(np.float32) / 255.0
    right = jax.jit(network.logits_fn)(image).argmax(1) == splits.test.label
    assert float(right.mean()) == pytest.approx(row["clean_acc"])


@pytest.mark.parametrize("name", ("seed0-grand_mid-40", "seed0-stability-40"))
def test_choices_are_files_that_others_can_use(compared, name):
    config = json.loads((compared / "config.json").read_text())
    train = data.load_splits(**config["data"]).train
    manifest = load_manifest(compared / "selections" / name, train)
    assert len(manifest.subset.index) == 40
    assert manifest.facts["seed"] == 0 and manifest.facts["method"]["balanced"]
    counts = np.bincount(manifest.columns["label"][manifest.columns["kept"]])
    assert counts.max() - counts.min() <= 1


def test_leaderboard_has_percent_by_method_and_seed(compared):
    table = json.loads((compared / "leaderboard.json").read_text())["digits"]
    row = next(r for r in runs.results(compared)["runs"] if r["name"] == "random / 40%")
    entry = table["random / 40%"]["seeds"]["0"]
    assert entry["pgd_20_acc"] == pytest.approx(100 * row["pgd_acc"])
    assert entry["total_training_time"] == pytest.approx(row["total_seconds"])


def test_a_run_cut_off_in_a_period_goes_on_to_the_same_networks(compared, tmp_path):
    workdir = runs.copied(compared, tmp_path)
    (workdir / "results.json").unlink()
    stage = workdir / "checkpoints" / "seed0" / "loss_again-40"
    saved = sorted(path.name for path in stage.iterdir() if path.name.isdigit())
    assert saved == ["4", "8"]
    shutil.rmtree(stage / "8")
    for path in (workdir / "selections").glob("seed0-loss_again-40-step*"):
        path.unlink()
    runs.run(workdir, RECIPE)
    assert accuracies(workdir) == accuracies(compared)


def test_a_network_that_ranks_is_not_asked_for_its_youth(compared, tmp_path):
    workdir = runs.copied(compared, tmp_path)
    (workdir / "results.json").unlink()
    (workdir / "scores" / "seed0-look000004.npz").unlink()
    runs.assert_mistake(runs.call(RECIPE, f"--workdir={workdir}"), "begin anew")


def test_a_finished_run_is_not_redone(compared, tmp_path):
    runs.assert_not_redone(compared, tmp_path, RECIPE)
