"""Distillation end to end: complete, controlled, resumable, and of use to others."""

import json

import jax
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.finished import open_run
from jaxrobust.tasks.fit import STOP
from jaxrobust.tasks.networks import load_network
from tests import runs

RECIPE = "--config=configs/guard.py:smoke"
ATTACKS = ("pgd", "cw", "mim", "square")
SET = "sre2l_guard-ipc2-set0.npz"


@pytest.fixture(scope="module")
def guarded(finished):
    """A finished run of configs/guard.py:smoke."""
    return finished("guard")


def table(workdir):
    """One row for each network and seed."""
    return runs.results(workdir)["runs"]


def test_every_way_meets_as_many_real_images_with_each_kind_of_label(guarded):
    rows = [row for row in table(guarded) if "ipc" in row]
    for seed in (0, 1):
        own = [row for row in rows if "architecture" not in row]
        found = {(r["images"], r["labels"]) for r in own if r["seed"] == seed}
        assert found == {
            ("sre2l", "standard"),
            ("sre2l", "hard"),
            ("sre2l_guard", "guard"),
            ("sre2l_guard", "hard"),
            ("random", "standard"),
            ("random", "guard"),
            ("random", "hard"),
            ("herding", "hard"),
        }
    for row in rows:
        assert row["train_images"] == 10 * row["ipc"] and row["steps"] == 8
        assert row["baseline"] == (row["images"] in ("random", "herding"))
        # 64 pixels and a label of 4 bytes, or the network that labels.
        hard = 10 * row["ipc"] * (64 + 4)
        assert (row["set_bytes"] == hard) == (row["labels"] == "hard")


def test_another_architecture_learns_every_set_and_the_random_images_beside_it(guarded):
    rows = [row for row in table(guarded) if "architecture" in row]
    for seed in (0, 1):
        found = {(r["name"], r["labels"]) for r in rows if r["seed"] == seed}
        assert found == {
            (f"{kind} / ipc 2 / pooled", labels)
            for kind, labels in (
                ("sre2l", "standard"),
                ("sre2l_guard", "guard"),
                ("random_standard", "standard"),
                ("random_guard", "guard"),
            )
        }
    for row in rows:
        assert row["architecture"] == "pooled" and row["hessian_top"] > 0
        # The labels are still those of the run's own network.
        name = row["name"].removesuffix(" / pooled")
        (own,) = [
            r for r in table(guarded) if (r["name"], r["seed"]) == (name, row["seed"])
        ]
        assert row["set_bytes"] == own["set_bytes"]
    scores = json.loads((guarded / "distilled.json").read_text())["scores"]
    assert {(s["arm"], s["network"]) for s in scores} == {
        (arm, network) for arm in ("sre2l", "sre2l_guard") for network in ("", "pooled")
    }
    for score in scores:
        assert "worst_over_random" in score and ("lrs" in score) == (
            not score["network"]
        )
    answer = runs.results(guarded)["answer"]
    assert "pooled, sre2l_guard - sre2l, ipc 2" in answer
    assert "pooled, sre2l, ipc 2" in answer


def test_networks_of_all_images_are_rows_too(guarded):
    whole = [row for row in table(guarded) if "ipc" not in row]
    assert [(row["name"], row["train_images"]) for row in whole] == [
        ("standard / all images", 100),
        ("guard / all images", 100),
    ]


def test_the_worst_case_is_below_each_attack_and_each_attack_below_clean(guarded):
    for row in table(guarded):
        for attack in ATTACKS:
            assert row["worst_acc"] <= row[f"{attack}_acc"] <= row["clean_acc"]
        assert [point[0] for point in row["worst_curve"]] == [0.0, 0.05, 0.1]
        assert row["worst_curve"][0][1] == row["clean_acc"]
        assert row["worst_curve"][1][1] == row["worst_acc"]
        assert row["hessian_top"] > 0 and row["curvature"] > 0


def test_a_distilled_set_is_a_file_that_others_can_use(guarded):
    with np.load(guarded / "distilled" / SET, allow_pickle=False) as file:
        found = dict(file)
    assert found["image"].shape == (20, 8, 8, 1) and found["image"].dtype == np.uint8
    np.testing.assert_array_equal(found["label"], np.repeat(np.arange(10), 2))
    assert found["logits"].shape == (20, 10) and np.isfinite(found["logits"]).all()
    facts = json.loads(str(found["provenance"]))
    assert facts["real"]["objective"]["name"] == "curvature"
    assert facts["method"] == "sre2l" and facts["ipc"] == 2
    # The package's own reader takes it for a pool of images.
    pool = data.SOURCES["npz"]("train", str(guarded / "distilled" / SET))
    np.testing.assert_array_equal(pool.image[:], found["image"])
    assert pool.class_names == tuple(found["class_names"])


def test_the_penalty_changes_the_images(guarded):
    plain_set, guard_set = (
        images_of(guarded / "distilled" / f"{arm}-ipc2-set0.npz")
        for arm in ("sre2l", "sre2l_guard")
    )
    assert (plain_set != guard_set).any()


@pytest.mark.parametrize(
    "name",
    ("sre2l_guard / ipc 2", "sre2l_guard / ipc 2 / pooled", "guard / all images"),
)
def test_its_networks_can_be_evaluated(name, guarded, mesh):
    run = open_run(str(guarded))
    (row,) = run.find((name,), (0,))
    splits = data.load_splits(**run.config["data"])
    network = load_network(run, row, splits, mesh, "")
    image = splits.test.image[:].astype(np.float32) / 255.0
    right = jax.jit(network.logits_fn)(image).argmax(1) == splits.test.label
    assert float(right.mean()) == pytest.approx(row["clean_acc"])


def test_the_report_shows_the_sets(guarded):
    page = (guarded / "report.html").read_text()
    shown = ("Distilled images", "sre2l_guard, ipc 2", "Label-robust score")
    for words in (*shown, "2 per class, pooled"):
        assert words in page


def test_a_finished_run_is_not_redone(guarded, tmp_path):
    runs.assert_not_redone(guarded, tmp_path, RECIPE)


def test_a_run_cut_off_in_a_recovery_goes_on_to_the_same_images(
    guarded, tmp_path, monkeypatch
):
    copy = runs.copied(guarded, tmp_path)
    (copy / "results.json").unlink()
    path = copy / "distilled" / SET
    before = images_of(path)
    path.unlink()
    monkeypatch.setattr(STOP, "asked", lambda: True)
    assert runs.call(RECIPE, f"--workdir={copy}").status == 143
    state = copy / "distilled" / "sre2l_guard-ipc2-set0-chunk0000.state.npz"
    with np.load(state) as file:
        assert int(file["step"]) == 4, "of 8"
    monkeypatch.setattr(STOP, "asked", lambda: False)
    runs.run(copy, RECIPE)
    np.testing.assert_array_equal(images_of(path), before)
    assert not list((copy / "distilled").glob("*.state.npz"))
    accuracies = lambda rows: [
        {k: v for k, v in row.items() if k.endswith("_acc")} for row in rows
    ]
    assert accuracies(table(copy)) == accuracies(table(guarded))


def images_of(path):
    """The pixels of a distilled set."""
    with np.load(path) as file:
        return file["image"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.distill.ipc=(50,)", "is not in 1.."),
        ("--config.distill.sets=3", "is not in 1..2"),
        ("--config.distill.arms.sre2l.method=sre2", "sre2l"),
        ("--config.distill.arms.sre2l.real=plain", "standard"),
        ("--config.distill.controls=('kmeans',)", "herding"),
        ("--config.model.norm=group", "BatchNorm"),
        ("--config.student.mix=cutout", "cutmix"),
        ("--config.student.temperature=0.0", "above 0"),
        ("--config.distill.eps=(0.05,)", "leave it out"),
        ("--config.distill.transfer.pooled.name=convnets", "convnet"),
        ("--config.distill.transfer.pooled.mean=(0.5, 0.5)", "channels"),
    ],
)
def test_mistakes_get_one_line(flag, words, tmp_path):
    runs.assert_one_line_mistake(tmp_path / "run", (RECIPE, flag), words)
