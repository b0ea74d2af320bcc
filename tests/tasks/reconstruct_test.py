"""What a finished hybrid run leaves behind."""

import json

import numpy as np

from tests import runs

RECIPE = "--config=configs/hybrid.py:smoke"
ROWS = [
    "pgd_at / original",
    "pgd_at / hybrid",
    "pgd_at / random",
    "standard / original",
]


def test_leaves_all_that_a_run_directory_promises(smoke):
    for name in (
        "config.json",
        "metrics.jsonl",
        "results.json",
        "card.json",
        "report.html",
        "report.md",
        "log.txt",
        "checkpoints/seed0/pgd_at-hybrid",
        "selections/seed0-round2.npz",
        "selections/seed0-round2.json",
        "generated/manifest.json",
    ):
        assert (smoke / name).exists(), name
    assert not [p for p in smoke.rglob("*") if p.name.endswith(".partial")]


def test_prints_the_table_with_baselines(smoke):
    printed = (smoke.parent / "stdout.txt").read_text()
    for name in ROWS:
        assert name in printed
    assert "report.html" in printed


def test_rows_carry_the_columns_of_the_contract(smoke):
    results = runs.results(smoke)
    assert [row["name"] for row in results["rows"]] == ROWS
    for row in results["rows"]:
        for key in ("clean_acc", "pgd_acc", "cw_acc"):
            assert 0.0 <= row[key] <= 1.0
        for part in ("attack", "score", "select", "train"):
            assert row[f"{part}_seconds"] >= 0.0
        assert row["steps"] == 8 and row["seeds"] == [0]
    standard = results["rows"][-1]
    assert standard["attack_seconds"] == 0.0


def test_one_seed_claims_nothing(smoke):
    results = runs.results(smoke)
    assert "too few to claim" in results["answer"]
    card = runs.card(smoke)
    seeds = next(c for c in card["checks"] if c["name"] == "enough seeds")
    assert not seeds["ok"]


def test_rounds_keep_as_many_as_the_original_has(smoke):
    previous = np.arange(100)
    for number in (1, 2):
        folder = smoke / "selections"
        facts = json.loads((folder / f"seed0-round{number}.json").read_text())
        with np.load(folder / f"seed0-round{number}.npz") as manifest:
            index, kept = manifest["index"], manifest["kept"]
            score, generated = manifest["score"], manifest["generated"]
        assert kept.sum() == facts["budget"] == 100
        assert np.isin(previous, index).all(), "a round starts from the last one's set"
        assert (np.diff(index) > 0).all()
        assert score[kept].min() >= score[~kept].max(), "the hardest are kept"
        assert facts["generated_share"] == generated[kept].mean()
        assert sum(facts["generated_per_class"].values()) == generated[kept].sum()
        assert "trained on" in facts["meaning"]
        previous = index[kept]


def test_risks_are_in_the_range_of_the_paper(smoke):
    with np.load(smoke / "selections" / "seed0-round1.npz") as manifest:
        for name in ("w_nat", "w_bdy"):
            assert manifest[name].min() >= 0.5 and manifest[name].max() <= 0.8045
        both = manifest["w_nat"] + manifest["w_bdy"]
        np.testing.assert_allclose(manifest["score"], both, rtol=1e-6)


def test_the_generator_saw_the_training_split_only(smoke):
    facts = json.loads((smoke / "generated" / "manifest.json").read_text())
    card = runs.card(smoke)
    assert facts["trained_on"]["sha256"] == card["data"]["sha256"]
    assert facts["trained_on"]["sha256"] != card["data"]["test_sha256"]
    assert set(facts["per_class"].values()) <= {12, 13}


def test_the_same_command_again_redoes_nothing(smoke, tmp_path):
    runs.assert_not_redone(smoke, tmp_path, RECIPE)


def test_a_workdir_of_another_config_is_refused(smoke):
    given = (f"--workdir={smoke}", "--config.threat.eps=0.2")
    runs.assert_mistake(runs.call(RECIPE, *given), "threat.eps")


def test_an_attack_that_helps_fails_its_check(smoke):
    from types import SimpleNamespace

    from jaxrobust.tasks.card import accuracy_checks
    from jaxrobust.threat import make_threat

    rows = runs.results(smoke)["runs"]
    setup = SimpleNamespace(
        threat=make_threat("linf", 0.15), evaluations={"clean": 0, "pgd": 0, "cw": 0}
    )
    assert all(check.ok for check in accuracy_checks(rows, setup))
    broken = [{**rows[0], "pgd_acc": rows[0]["clean_acc"] + 0.1}]
    failed = [c.name for c in accuracy_checks(broken, setup) if not c.ok]
    assert failed == ["attacks do not help"]
    # Validation figures are of other images: they may lie above.
    assert all(c.ok for c in accuracy_checks([{**rows[0], "val_pgd_acc": 1.0}], setup))
    too_far = [{**rows[0], "max_distance": 0.16}]
    failed = [c.name for c in accuracy_checks(too_far, setup) if not c.ok]
    assert failed == ["attacks stay in the ball"]
