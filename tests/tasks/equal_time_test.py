"""Steps in the time of a random choice, from measured rows."""

import json

import pytest

from jaxrobust.tasks.equal_time import FILE, plan_steps
from jaxrobust.workdir import Workdir


def row(choice, budget, seconds, program="pgd_at", seed=0, **costs):
    parts = {"rounds_seconds": 0.0, "score_seconds": 0.0, "select_seconds": 0.0}
    return {
        "name": f"{choice} / {budget}",
        "choice": choice,
        "budget": budget,
        "rule": "steps",
        "seed": seed,
        "steps": 100,
        "attack_seconds": 0.8 * seconds,
        "train_seconds": 0.2 * seconds,
        "program": program,
        **parts,
        **costs,
    }


@pytest.fixture
def workdir(tmp_path):
    return Workdir(str(tmp_path / "run"), {})


def planned(workdir, *rows):
    return plan_steps(workdir, list(rows), chunk_steps=10)


def test_what_choosing_took_is_taken_off_in_whole_chunks(workdir):
    costs = {"rounds_seconds": 2.0, "score_seconds": 1.0, "select_seconds": 0.5}
    steps = planned(workdir, row("random", 0.3, 10.0), row("el2n", 0.3, 10.0, **costs))
    assert steps == {"random / 0.3": 100, "el2n / 0.3": 60}  # 65 fit


def test_a_cheaper_step_gets_more_of_them(workdir):
    cheap = row("before", 0.3, 4.0, program="before-30")
    assert planned(workdir, row("random", 0.3, 10.0), cheap)["before / 0.3"] == 250


def test_one_program_takes_one_time_whatever_its_rows_took(workdir):
    rows = [row("random", 0.3, 10.0), row("random", 0.3, 30.0, seed=1)]
    rows += [row("full", 1.0, 50.0), row("random_redrawn", 0.3, 12.0)]
    assert set(planned(workdir, *rows).values()) == {100}


def test_what_is_spent_on_the_way_counts_by_the_step(workdir):
    again = row("loss_again", 0.3, 10.0, score_seconds=10.0)
    assert planned(workdir, row("random", 0.3, 10.0), again)["loss_again / 0.3"] == 50


def test_no_time_left_is_no_steps(workdir):
    dear = row("el2n", 0.3, 10.0, rounds_seconds=20.0)
    assert planned(workdir, row("random", 0.3, 10.0), dear)["el2n / 0.3"] == 0


def test_a_plan_is_made_once(workdir):
    first = planned(workdir, row("random", 0.3, 10.0), row("x", 0.3, 10.0))
    assert planned(workdir, row("random", 0.3, 99.0), row("x", 0.3, 1.0)) == first
    stored = json.loads((workdir.path / FILE).read_text())
    assert {name: entry["steps"] for name, entry in stored.items()} == first
