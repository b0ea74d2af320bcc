"""The presets of published tables are plain data, and every attack in them builds."""

import json

import pytest

from configs.attack_presets import PRESETS
from jaxrobust import losses, registry
from jaxrobust.attacks import ATTACKS
from jaxrobust.threat import make_threat

PAIRS = [(p, name) for p, make in PRESETS.items() for name in make()["attacks"]]


@pytest.mark.parametrize("preset,name", PAIRS)
def test_every_attack_of_a_preset_builds(preset, name):
    chosen = PRESETS[preset]()
    spec = dict(chosen["attacks"][name])
    loss = losses.LOSSES[spec.pop("loss", "margin")]
    threat = make_threat(**chosen["threat"])
    built = registry.build("attack", ATTACKS, spec, threat=threat, loss=loss)
    assert callable(built)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_plain_data_and_fresh(preset):
    chosen = PRESETS[preset]()
    assert json.loads(json.dumps(chosen)) == chosen
    chosen["attacks"].clear()
    assert PRESETS[preset]()["attacks"]


def test_odd_numbers_are_kept():
    assert PRESETS["beard_linf"]()["attacks"]["pgd"]["step_size"] == 2 / 225
    guard = PRESETS["guard"]()
    assert guard["threat"]["eps"] == guard["attacks"]["mim"]["step_size"] == 1 / 255
    assert guard["attacks"]["cw"]["initial_const"] == 1e-4
    assert guard["attacks"]["square"]["rescale"]
