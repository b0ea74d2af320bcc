"""A pass over a pool gives each image the score it has alone."""

import jax
import numpy as np
import pytest

from jaxrobust import losses, scores
from jaxrobust.attacks import ATTACKS
from jaxrobust.loader import Feed, Pool
from jaxrobust.selection import Frozen, ScoringPass
from jaxrobust.state import bind, bind_features
from jaxrobust.threat import make_threat
from tests.helpers import TinyNet, image_keys, variables_of

NET = TinyNet()
THREAT = make_threat("linf", 0.1)
ATTACK = ATTACKS["fgsm_rs"](THREAT, losses.cross_entropy, 1.25)
SCORES = {
    "nat": scores.w_nat("softmax"),
    "margin": scores.margin(),
    "slope": scores.input_gradient("adversarial"),
    "grand": scores.last_layer_gradient("adversarial"),
}
KEY = jax.random.key(7)
LOGITS_FN = bind(NET, variables_of(NET), "running")
FEATURES_FN = bind_features(NET, variables_of(NET))


@pytest.fixture(scope="module")
def score(images, mesh):
    """(index, batch_size, device_gb) -> scores."""
    passes = {}

    def run(index, batch_size=16, device_gb=1.0):
        if batch_size not in passes:
            passes[batch_size] = ScoringPass(ATTACK, SCORES, batch_size, mesh)
        feed = Feed(Pool((images,)), mesh, device_gb)
        network = Frozen(LOGITS_FN, FEATURES_FN)
        return passes[batch_size](network, feed, np.asarray(index), KEY)

    return run


def test_scores_are_those_of_each_image_under_its_own_key(score, images):
    found = score(np.arange(40))
    image = images.image.astype(np.float32) / 255

    @jax.jit
    def by_hand(keys):
        x_adv = ATTACK(keys, LOGITS_FN, image, images.label)
        seen = scores.Prediction(LOGITS_FN(image), LOGITS_FN(x_adv), images.label)
        attacked = scores.Attacked(image, x_adv, images.label)
        return {
            "nat": SCORES["nat"](seen),
            "margin": SCORES["margin"](seen),
            "slope": SCORES["slope"].of(LOGITS_FN, attacked),
            "grand": SCORES["grand"].of(FEATURES_FN, attacked),
        }

    expected = by_hand(image_keys(np.arange(40)))
    for name in SCORES:
        assert found[name].shape == (40,)
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_company_order_batch_size_and_storage_do_not_matter(score):
    whole = score(np.arange(40))
    chosen = np.array([31, 2, 39, 17, 5])
    for found in (
        score(chosen),
        score(chosen, batch_size=4),
        score(chosen, device_gb=0.0),
    ):
        for name in SCORES:
            np.testing.assert_allclose(found[name], whole[name][chosen], atol=1e-5)


def test_scores_stay_on_the_device(score):
    assert all(isinstance(value, jax.Array) for value in score(np.arange(3)).values())
