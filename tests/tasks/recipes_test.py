"""Every recipe runs in its smoke variant, and says what it is."""

import importlib
import json

import pytest

from jaxrobust.main import main
from jaxrobust.tree import plain
from tests.tasks.conftest import ROOT

RECIPES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("attack_presets", "base", "__init__")
)
ELSEWHERE = ("compare", "coreset", "harden", "hybrid", "evaluate", "proxy")
"""Run by the fixture `smoke`, by the tests of the task."""


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r not in ELSEWHERE])
def test_smoke_variant_runs_to_the_end(recipe, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = f"--config=configs/{recipe}.py:smoke"
    assert main(["jaxrobust", config, f"--workdir={workdir}"]) == 0, (
        capsys.readouterr().err
    )
    card = json.loads((workdir / "card.json").read_text())
    assert card["data"]["train"] == 100


@pytest.mark.parametrize("recipe", RECIPES)
def test_docstring_is_a_lab_notebook(recipe):
    text = (ROOT / "configs" / f"{recipe}.py").read_text()
    for word in ("Source", "Run ", "Variants"):
        assert word in text, f"{recipe} does not say its {word.lower()}"
    assert f"--config=configs/{recipe}.py" in text


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_variant_is_plain_data(recipe):
    module = importlib.import_module(f"configs.{recipe}")
    assert {"", "smoke"} <= set(module.VARIANTS)
    for variant in module.VARIANTS:
        config = plain(module.get_config(variant))
        assert json.loads(json.dumps(config)), "only names, numbers and tuples"


def test_prune_compares_with_random_at_every_ratio(tmp_path, capsys):
    workdir = tmp_path / "run"
    config = "--config=configs/prune.py:smoke"
    keep = "--config.prune.keep_ratios=(0.5,)"
    assert main(["jaxrobust", config, keep, f"--workdir={workdir}"]) == 0, (
        capsys.readouterr().err
    )
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    sizes = {row["name"]: row["train_images"] for row in rows}
    for kind in ("original", "hybrid"):
        assert sizes[f"nfgsm / {kind}"] == 100
        for choice in ("heuristic", "random"):
            assert sizes[f"nfgsm / {kind} {choice} 50%"] == 50
