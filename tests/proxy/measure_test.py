"""What goes to proxy.json: numbers known in advance, and nothing that JSON lacks."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.proxy import measure
from jaxrobust.proxy.measure import explain
from jaxrobust.proxy.wasserstein import compared
from tests.helpers import linear_logits

from .clouds import linear_distances, pixels

NORM = "linf"
ORIGINAL = pixels([0] * 12 + [1] * 6 + [2] * 6)
SHIFTED = pixels([0] * 12 + [1] * 6 + [2] * 6, bright=32)


def rows_weight():
    """Logit k is the mean of row k: reads the images of `pixels` right."""
    weight = np.zeros((64, 3), np.float32)
    for k in range(3):
        weight[8 * k : 8 * k + 8, k] = 1 / 8
    return weight


WEIGHT = rows_weight()
FEATURES = lambda image: jnp.reshape(image, (len(image), -1))[:, :5]
NETWORKS = {"linear": (linear_logits(WEIGHT), FEATURES)}


def distances(original, generated, limit, seed):
    pair = compared(original, generated, limit, seed)
    sides = (original.image[pair.original], generated.image[pair.generated])
    flat = [side.reshape(len(side), -1) / 255.0 for side in sides]
    return tuple(linear_distances(x, pair.label, WEIGHT)[NORM] for x in flat)


def explained(generated, limit=50, seed=0, known=None):
    known = known or distances(ORIGINAL, generated, limit, seed)
    return explain(ORIGINAL, generated, NETWORKS, {"linear": known}, NORM, limit, seed)


def test_a_brighter_copy_is_as_far_as_it_is_brighter():
    found = explained(SHIFTED)
    pixel, feature = found["spaces"]
    assert pixel["space"] == "pixels" and feature["space"] == "linear"
    assert pixel["cwd"] == pixel["lower"] == pytest.approx(32 / 255, rel=1e-5)
    assert pixel["per_class"] == pytest.approx(
        dict.fromkeys(("cat", "dog", "ox"), 32 / 255)
    )
    assert feature["cwd"] == pytest.approx(np.sqrt(5) * 32 / 255, rel=1e-5)
    assert found["frechet"][0]["frechet"] == pytest.approx(
        5 * (32 / 255) ** 2, rel=1e-4
    )
    assert pixel["exact"] and found["label_shift"] == 0
    assert pixel["images_per_class"] == {"cat": 12, "dog": 6, "ox": 6}
    # Halves of one class are as far apart as its noise.
    assert 0.1 < pixel["floor"] < 0.3


def test_the_set_itself_is_at_no_distance():
    found = explained(ORIGINAL)
    assert [space["cwd"] for space in found["spaces"]] == [0, 0]
    assert all(row["difference"] == 0 and row["holds"] for row in found["transfer"])


def test_theorem_1_holds_for_known_distances():
    other = pixels([0] * 3 + [1] * 9 + [2] * 5, seed=4, bright=20)
    found = explained(other)
    assert found["images"] == {"original": 24, "generated": 17, "compared": 14}
    assert found["label_shift"] == pytest.approx(0.5 - 3 / 17)
    assert all(row["holds"] for row in found["transfer"])
    first, last = found["transfer"][0], found["transfer"][-1]
    assert first["bound"] == found["spaces"][0]["cwd"] and last["bound"] == 0
    row = found["networks"][0]
    assert first["difference"] == pytest.approx(
        abs(row["rob_original"] - row["rob_generated"])
    )
    assert row["clean_acc_original"] == row["clean_acc_generated"] == 1


def test_misread_images_have_no_robustness_and_missing_ones_are_counted():
    label = ORIGINAL.label.copy()
    wrong = pixels(ORIGINAL.label)
    label[[0, 12]] = 2, 0
    wrong = type(wrong)(wrong.image, label, wrong.class_names, "mislabelled")
    known = distances(ORIGINAL, wrong, 50, 0)
    pair = compared(ORIGINAL, wrong, 50, 0)
    read = wrong.image[pair.generated].reshape(len(pair.label), -1) @ WEIGHT
    misread = read.argmax(axis=1) != pair.label
    assert misread.sum() in (1, 2)
    claimed = known[0].copy(), np.where(misread, 7.0, known[1])
    claimed[0][3] = np.inf
    row = explained(wrong, known=claimed)["networks"][0]
    truth = explained(wrong, known=known)["networks"][0]
    assert row["rob_generated"] == truth["rob_generated"]
    assert row["not_found_original"] == 1 and row["not_found_generated"] == 0
    assert np.isfinite(row["rob_original"])
    assert row["rob_original"] > truth["rob_original"]
    assert row["clean_acc_generated"] < 1


def test_large_classes_are_bracketed_not_called_exact(monkeypatch):
    exact = explained(SHIFTED)
    monkeypatch.setattr(measure, "EXACT_MOST", 5)
    found = explained(SHIFTED)
    for space, known in zip(found["spaces"], exact["spaces"]):
        assert not space["exact"]
        assert space["lower"] - 1e-5 <= known["cwd"] <= space["cwd"] + 1e-5
        assert space["lower"] < space["cwd"]
    assert found["transfer"][0]["bound"] == found["spaces"][0]["cwd"]


def test_json_takes_it_and_single_images_have_no_floor():
    found = explained(SHIFTED, limit=1, seed=2)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["spaces"][0]["floor"] is None
    assert found["frechet"][0]["floor"] is None


def test_a_network_without_distances_is_measured_all_the_same():
    found = explain(ORIGINAL, SHIFTED, NETWORKS, {}, NORM, 3, 0)
    assert found["transfer"] == []
    assert "rob_original" not in found["networks"][0]


def test_foreign_distances_are_refused():
    sides = distances(ORIGINAL, SHIFTED, 50, 0)
    with pytest.raises(UserError, match="not among the networks"):
        explain(ORIGINAL, SHIFTED, NETWORKS, {"other": sides}, NORM, 50, 0)
    with pytest.raises(UserError, match="9 numbers a side"):
        explain(ORIGINAL, SHIFTED, NETWORKS, {"linear": sides}, NORM, 3, 0)
