"""Rows and runs: what all iterated attacks share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import metrics
from jaxrobust.attacks.apgd import apgd_component
from jaxrobust.attacks.machine import as_attack, fooled, ranked_others
from jaxrobust.threat import make_threat
from tests.helpers import image_keys, linear_logits, random_images, random_weight

CLASSES, COUNT = 5, 6
LOGITS_FN = linear_logits(random_weight(classes=CLASSES))
IMAGE = random_images(COUNT)
LABEL = jnp.arange(COUNT) % CLASSES


@pytest.mark.parametrize("goal, passes", (("margin", 0), ("dlr_targeted", 1)))
def test_only_targeted_attacks_look_at_the_clean_images(goal, passes):
    component = apgd_component("apgd", goal, 3, 2)
    attack = as_attack(component, make_threat("linf", 0.1))
    run = lambda image: attack(image_keys(np.arange(COUNT)), LOGITS_FN, image, LABEL)
    # All other forward passes stand inside the loop over runs.
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(run)(IMAGE).eqns]
    assert names.count("dot_general") == passes


def test_fooled_is_what_accuracy_does_not_count():
    logits = jnp.asarray(LOGITS_FN(IMAGE)).at[0, 1].set(jnp.nan)
    right = metrics.correct(logits, LABEL)
    np.testing.assert_array_equal(fooled(logits, LABEL), right == 0)
    assert fooled(logits, LABEL)[0]


def test_other_classes_are_ranked_by_their_logits():
    logits = jnp.array([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 5.0, 7.0]])
    found = ranked_others(logits, jnp.array([0, 2]))
    np.testing.assert_array_equal(found, [[2, 1, 3], [3, 1, 0]])
