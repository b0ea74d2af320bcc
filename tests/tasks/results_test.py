"""Means, pairs and the words for them."""

import pytest

from jaxrobust.tasks.results import Results, difference, format_table, verdict
from jaxrobust.workdir import Workdir


@pytest.fixture
def results(tmp_path):
    return Results(Workdir(str(tmp_path / "run"), {}), "title", "question")


def fill(results, name, values):
    for seed, value in enumerate(values):
        results.row(name, seed, lambda value=value: {"pgd_acc": value, "steps": 4})


def test_differences_are_paired_by_seed(results):
    fill(results, "a", [0.5, 0.6, 0.7])
    fill(results, "b", [0.4, 0.5, 0.6])
    gap, error, seeds = difference(results, "a", "b", "pgd_acc")
    assert gap == pytest.approx(0.1) and error == pytest.approx(0.0) and seeds == 3


def test_three_seeds_need_more_than_two_standard_errors(results):
    fill(results, "a", [0.686, 0.672, 0.672])
    fill(results, "b", [0.622, 0.666, 0.624])
    gap, error, _ = difference(results, "a", "b", "pgd_acc")
    assert 2 < gap / error < 4.3
    assert "not distinguishable" in verdict(results, "a", "b", "pgd_acc")


def test_a_clear_difference_is_called_by_its_sign(results):
    fill(results, "a", [0.70, 0.71, 0.70])
    fill(results, "b", [0.50, 0.50, 0.51])
    assert verdict(results, "a", "b", "pgd_acc").endswith("higher")
    assert verdict(results, "b", "a", "pgd_acc").endswith("lower")


def test_fewer_than_three_seeds_claim_nothing(results):
    fill(results, "a", [0.9, 0.9])
    fill(results, "b", [0.1, 0.1])
    assert "too few" in verdict(results, "a", "b", "pgd_acc")


def test_mean_rows_carry_the_spread_of_accuracies(results):
    fill(results, "a", [0.5, 0.7])
    (row,) = results.mean_rows()
    assert row["pgd_acc"] == pytest.approx(0.6) and row["seeds"] == [0, 1]
    assert row["pgd_acc_std"] == pytest.approx(0.02**0.5)
    assert row["steps"] == 4
    assert "60.0% +-14.1" in format_table([row])


def test_a_finished_row_is_not_computed_again(results):
    fill(results, "a", [0.5])
    again = results.row("a", 0, lambda: pytest.fail("computed twice"))
    assert again["pgd_acc"] == 0.5
