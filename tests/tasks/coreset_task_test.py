"""A comparison with coresets: weighted subsets that are chosen again on the way."""

import numpy as np
import pytest

from jaxrobust import loader
from jaxrobust.selection import load_manifest
from tests import runs

CORESETS = ("craig", "glister", "gradmatch_batch")


@pytest.fixture(scope="module")
def chosen(finished):
    return finished("coreset")


@pytest.fixture(scope="module")
def rows(chosen):
    return runs.rows(chosen)


@pytest.mark.parametrize("choice", CORESETS)
def test_coresets_are_chosen_again_and_again(chosen, rows, choice):
    files = sorted((chosen / "selections").glob(f"seed0-{choice}-50-of12-step*.npz"))
    assert [path.stem[-2:] for path in files] == ["06", "08", "10"]
    found = [load_manifest(path) for path in files]
    subsets = [set(m.subset.index.tolist()) for m in found]
    assert all(len(subset) == len(m.subset.index) for subset, m in zip(subsets, found))
    assert subsets[0] != subsets[1]
    errors = [m.facts["gradient_error"] for m in found]
    assert rows[f"{choice} / 50% equal epochs"]["gradient_error"] == pytest.approx(
        np.mean(errors)
    )


@pytest.mark.parametrize("choice", CORESETS)
def test_weights_have_mean_one(chosen, choice):
    name = f"seed0-{choice}-50-of12-step000008"
    weight = load_manifest(chosen / "selections" / name).subset.weight
    assert np.mean(weight) == pytest.approx(1.0, abs=1e-5)
    assert (np.std(weight) > 0.01) == (choice != "glister")


def test_weights_differ_within_a_minibatch(chosen):
    name = "seed0-craig-50-of12-step000008"
    subset = load_manifest(chosen / "selections" / name).subset
    _, weight = loader.batches(subset, 0, 10, first_step=0, count=20)
    assert (weight.std(axis=1) > 0.01).all()


def test_half_of_the_steps_at_equal_epochs_and_the_speed_up_they_bring(rows):
    full = rows["full / 100% equal epochs"]
    for choice in CORESETS:
        row = rows[f"{choice} / 50% equal epochs"]
        assert row["steps"] == 12 and full["steps"] == 24
        expected = full["total_seconds"] / row["total_seconds"]
        assert row["speed_up"] == pytest.approx(expected)


def test_gradient_matching_matches_better_than_chance(rows):
    row = rows["gradmatch_batch / 50% equal epochs"]
    assert row["gradient_error"] < row["random_gradient_error"]


def test_a_row_is_the_same_whichever_process_trained_its_network(
    chosen, rows, tmp_path
):
    workdir = runs.copied(chosen, tmp_path)
    (workdir / "results.json").unlink()
    runs.run(workdir, "--config=configs/coreset.py:smoke")
    again = runs.rows(workdir)
    assert again.keys() == rows.keys()
    for name, row in again.items():
        before = rows[name]
        for key in ("score_seconds", "select_seconds", "flops", "pgd_acc"):
            assert row[key] == before[key]
        assert row.get("gradient_error") == before.get("gradient_error")
