"""Every recipe runs in its smoke variant, and says what it is."""

import importlib
import json

import pytest
from ml_collections import ConfigDict

from jaxrobust.tree import plain
from tests import runs
from tests.helpers import ROOT

RECIPES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("attack_presets", "base", "distillation_parts", "__init__")
)
GIVEN = ("evaluate", "harden")
"""They ask for a network and for a folder; run by the tests of their tasks."""


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r not in GIVEN])
def test_smoke_variant_runs_to_the_end(recipe, finished):
    assert runs.card(finished(recipe))["data"]["train"] == 100


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


def parts(value, path):
    """(part, its path) of all of `value` that can be changed in place."""
    if isinstance(value, list | dict | ConfigDict):
        yield value, path
    if isinstance(value, dict | ConfigDict):
        for key in value:
            yield from parts(value[key], f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from parts(item, f"{path}.{place}")


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_set_of_one_key_is_not_set_of_another(recipe):
    """ml_collections keeps one dict under two keys as one: an override of
    methods.pgd_at.attack would be one of methods.mart.attack as well."""
    module = importlib.import_module(f"configs.{recipe}")
    for variant in module.VARIANTS:
        found, config = {}, module.get_config(variant)
        for part, path in parts(config, "config"):
            there = found.setdefault(id(part), path)
            assert there == path, f"{recipe}:{variant}: {there} is {path}"
        assert len(found) > 3


def test_prune_compares_with_random_at_every_ratio(finished):
    rows = runs.rows(finished("prune"))
    sizes = {name: row["train_images"] for name, row in rows.items()}
    for kind in ("original", "hybrid"):
        assert sizes[f"nfgsm / {kind}"] == 100
        for choice in ("heuristic", "random"):
            for percent in (80, 40):
                assert sizes[f"nfgsm / {kind} {choice} {percent}%"] == percent
