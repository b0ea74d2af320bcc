"""Inputs of which no figure could be made are refused with a way out."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.evaluators.check import Check, check_inputs, check_label_range
from jaxrobust.tasks import card
from jaxrobust.threat import ThreatModel, make_threat
from tests.helpers import random_images

THREAT = make_threat("linf", 8 / 255)
IMAGE = random_images(6)
LABEL = np.arange(6, dtype=np.int32) % 3


def with_value(value):
    image = IMAGE.copy()
    image[2, 1, 1, 0] = value
    return image


@pytest.mark.parametrize("asarray", (np.asarray, jnp.asarray))
def test_sound_inputs_pass_whatever_holds_them(asarray):
    check_inputs(asarray(IMAGE), asarray(LABEL), THREAT)
    check_inputs(asarray(IMAGE[:1]), asarray(LABEL[:1]), make_threat("l2", 0.5))
    check_inputs(asarray(IMAGE), asarray(LABEL), make_threat("linf", 1.0))
    check_label_range(asarray(LABEL), 3)


@pytest.mark.parametrize("asarray", (np.asarray, jnp.asarray))
@pytest.mark.parametrize(
    ("image", "says"),
    [
        (IMAGE * 255, "divide them by 255"),
        ((IMAGE - 0.5) / 0.25, "undo the normalisation"),
        (with_value(1.5), "undo the normalisation"),
        (with_value(np.nan), "1 of 6 images hold NaN"),
        (with_value(np.inf), "1 of 6 images hold NaN or infinity"),
        ((IMAGE * 255).astype(np.uint8), "astype('float32') / 255"),
        (IMAGE > 0.5, "are bool"),
        (IMAGE[..., 0], "channel axis"),
        (IMAGE[0, 0, 0], "one array of images"),
        (IMAGE[:0], "no images"),
        (IMAGE[:, :0], "no pixels"),
        (random_images(6, shape=(3, 8, 8)), "transpose(0, 2, 3, 1)"),
    ],
)
def test_wrong_images_are_refused(asarray, image, says):
    with pytest.raises(UserError) as error:
        check_inputs(asarray(image), asarray(LABEL), THREAT)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (LABEL[:5], "6 images but 5 labels"),
        (LABEL.astype(np.float32), "not class numbers"),
        (np.eye(3)[LABEL], "one-hot"),
    ],
)
def test_wrong_labels_are_refused(label, says):
    with pytest.raises(UserError, match=says):
        check_inputs(IMAGE, label, THREAT)


@pytest.mark.parametrize("label, wrong", ((LABEL + 1, 3), (LABEL - 1, -1)))
def test_labels_without_a_logit_are_refused(label, wrong):
    with pytest.raises(UserError, match=f"label {wrong} is outside 0..2"):
        check_label_range(label, 3)


@pytest.mark.parametrize(
    ("threat", "says"),
    [
        (ThreatModel(8.0, "linf"), "8 / 255"),
        (ThreatModel(128.0, "l2"), "8-bit units"),
        (ThreatModel(float("nan"), "linf"), ">= 0"),
        (ThreatModel(-0.1, "l2"), ">= 0"),
        (ThreatModel(np.array([0.1, 8.0]), "linf"), "8 / 255"),
        (ThreatModel(0.1, "l7"), "unknown norm"),
        (ThreatModel(0.1, "linf", (0.0, 255.0)), "expected \\(0, 1\\)"),
    ],
)
def test_threats_that_went_round_their_maker_are_refused(threat, says):
    with pytest.raises(UserError, match=says):
        check_inputs(IMAGE, LABEL, threat)


def test_the_card_knows_the_same_check():
    assert card.Check is Check
