"""Scores against cases worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses, registry, scores
from jaxrobust.errors import UserError
from tests.helpers import linear_logits, random_images, random_weight

DRAW = np.random.default_rng(0)
LOGITS = (4 * DRAW.normal(size=(64, 4))).astype(np.float32)
ADV = (4 * DRAW.normal(size=(64, 4))).astype(np.float32)
LABEL = DRAW.integers(0, 4, 64).astype(np.int32)
SEEN = scores.Prediction(jnp.asarray(LOGITS), jnp.asarray(ADV), jnp.asarray(LABEL))
SPECS = {
    "clean_error": {},
    "el2n": {},
    "error": {},
    "grand": {"on": "clean"},
    "input_gradient": {"on": "clean"},
    "margin": {},
    "robust_risk": {"output": "softmax", "combine": "sum"},
    "w_bdy": {"output": "softmax"},
    "w_nat": {"output": "softmax"},
}
NETWORK = {"grand", "input_gradient"}
EVERY = pytest.mark.parametrize("name", sorted(set(scores.SCORES) - NETWORK))


SIDED = {"el2n": "clean", "error": "adversarial", "margin": "adversarial"}


def build(name, **options):
    spec = {"name": name, **SPECS[name]} | options
    return registry.build("score", scores.SCORES, spec)


def sure(*classes, count=4):
    """Logits of a network that is certain of each class in turn."""
    return 100.0 * jnp.eye(count)[jnp.array(classes)]


def prediction(logits, adv, *label):
    return scores.Prediction(logits, adv, jnp.array(label))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(z):
    e = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_every_score_is_known_to_these_tests():
    assert set(SPECS) == set(scores.SCORES)
    own = scores.NetworkScore | scores.FeatureScore
    assert {name for name in SPECS if isinstance(build(name), own)} == NETWORK


def test_w_nat_by_hand():
    # Certain and right: distance 0. Certain and wrong: sqrt 2. Undecided between two.
    logits = jnp.concatenate([sure(1, 2), jnp.array([[50.0, 50.0, 0.0, 0.0]])])
    found = build("w_nat")(prediction(logits, logits, 1, 1, 0))
    expected = [0.5, sigmoid(math.sqrt(2)), sigmoid(math.sqrt(0.5))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.8044, atol=1e-4)


def test_w_bdy_by_hand():
    # Untouched, turned to another class, and doubt spread evenly over all four.
    adv = jnp.concatenate([sure(1, 2), jnp.zeros((1, 4))])
    found = build("w_bdy")(prediction(sure(1, 1, 1), adv, 0, 0, 0))
    spread = math.sqrt(0.75**2 + 3 * 0.25**2)
    expected = [0.5, sigmoid(math.sqrt(2)), sigmoid(spread)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_logit_outputs_by_hand():
    logits, adv = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])
    seen = prediction(logits, adv, 0)
    nat = build("w_nat", output="logits")(seen)
    bdy = build("w_bdy", output="logits")(seen)
    np.testing.assert_allclose(nat, [sigmoid(2.0)], rtol=1e-6)
    np.testing.assert_allclose(bdy, [sigmoid(5.0)], rtol=1e-6)


@pytest.mark.parametrize("name", ("w_nat", "w_bdy"))
def test_softmax_risks_stay_in_the_papers_range(name):
    found = np.asarray(build(name)(SEEN))
    assert found.min() >= 0.5 and found.max() <= sigmoid(math.sqrt(2)) + 1e-6
    assert found.max() > 0.8 and found.min() < 0.55


def test_w_nat_looks_at_clean_logits_and_w_bdy_at_no_label():
    other = SEEN._replace(adv_logits=SEEN.logits)
    np.testing.assert_array_equal(build("w_nat")(other), build("w_nat")(SEEN))
    moved = SEEN._replace(label=(SEEN.label + 1) % 4)
    np.testing.assert_array_equal(build("w_bdy")(moved), build("w_bdy")(SEEN))


@pytest.mark.parametrize(
    "combine,rule",
    (
        ("sum", lambda nat, bdy: nat + bdy),
        ("product", lambda nat, bdy: nat * bdy),
        ("nat", lambda nat, bdy: nat),
        ("bdy", lambda nat, bdy: bdy),
    ),
)
@pytest.mark.parametrize("output", ("softmax", "logits"))
def test_robust_risk_combines_the_two(combine, rule, output):
    nat, bdy = (build(name, output=output)(SEEN) for name in ("w_nat", "w_bdy"))
    found = build("robust_risk", output=output, combine=combine)(SEEN)
    np.testing.assert_allclose(found, rule(nat, bdy), rtol=1e-6)


def test_errors_are_cross_entropies_of_clean_and_attacked_images():
    rows = np.arange(64)
    for name, logits in (("clean_error", LOGITS), ("error", ADV)):
        expected = -np.log(softmax(logits)[rows, LABEL])
        np.testing.assert_allclose(build(name)(SEEN), expected, rtol=1e-4, atol=1e-6)


def test_margin_is_positive_where_the_attacked_image_is_misread():
    wrong = ADV.argmax(1) != LABEL
    np.testing.assert_array_equal(np.asarray(build("margin")(SEEN)) > 0, wrong)


def test_el2n_is_the_length_of_the_error_vector():
    expected = np.linalg.norm(softmax(LOGITS) - np.eye(4)[LABEL], axis=1)
    np.testing.assert_allclose(build("el2n")(SEEN), expected, rtol=1e-5)


@pytest.mark.parametrize("name,usual", sorted(SIDED.items()))
def test_a_score_is_of_the_clean_or_the_attacked_image(name, usual):
    swapped = scores.Prediction(SEEN.adv_logits, SEEN.logits, SEEN.label)
    clean, attacked = (build(name, on=on)(SEEN) for on in scores.INPUTS)
    assert not np.allclose(clean, attacked)
    np.testing.assert_array_equal(build(name, on="clean")(swapped), attacked)
    np.testing.assert_array_equal(build(name, on="adversarial")(swapped), clean)
    usual_one = {"clean": clean, "adversarial": attacked}[usual]
    np.testing.assert_array_equal(build(name)(SEEN), usual_one)


@pytest.mark.parametrize("on,logits", (("clean", [1.0, 3.0]), ("adversarial", [2, 0])))
def test_sided_scores_by_hand(on, logits):
    seen = prediction(jnp.array([[1.0, 3.0]]), jnp.array([[2.0, 0.0]]), 0)
    gap = logits[1] - logits[0]
    miss = sigmoid(gap)  # the probability of the other class
    by_hand = {
        "margin": gap,
        "error": math.log1p(math.exp(gap)),
        "el2n": math.sqrt(2) * miss,
    }
    for name, expected in by_hand.items():
        np.testing.assert_allclose(build(name, on=on)(seen), [expected], rtol=1e-5)


@pytest.mark.parametrize("on", scores.INPUTS)
def test_input_gradient_of_a_linear_network_by_hand(on):
    # d CE / dx = W (softmax(z) - onehot(y)), at the image that is looked at.
    weight, label = random_weight(), np.array([0, 1, 2, 1], np.int32)
    shown = {"clean": random_images(4), "adversarial": random_images(4, seed=1)}
    attacked = scores.Attacked(*(jnp.asarray(x) for x in (*shown.values(), label)))
    found = build("input_gradient", on=on).of(linear_logits(weight), attacked)
    delta = softmax(shown[on].reshape(4, -1) @ weight) - np.eye(3)[label]
    expected = np.linalg.norm(delta @ weight.T, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    part = scores.Attacked(*(x[1:2] for x in attacked))
    alone = build("input_gradient", on=on).of(linear_logits(weight), part)
    np.testing.assert_allclose(alone, found[1:2], rtol=1e-5)


def test_input_gradient_is_larger_where_the_network_is_wrong():
    # Logits (s, -s) with s the sum of pixels: the slope is 2 sqrt(n) p(other class).
    image = jnp.full((2, 4, 4, 1), 0.1)
    weight = jnp.tile(jnp.array([[1.0, -1.0]]), (16, 1))
    attacked = scores.Attacked(image, image, jnp.array([0, 1]))
    right, wrong = build("input_gradient").of(linear_logits(weight), attacked)
    np.testing.assert_allclose(right, 8 * sigmoid(-3.2), rtol=1e-5)
    assert wrong > 10 * right


def test_grand_is_the_norm_of_the_last_layers_gradient():
    embedding = DRAW.normal(size=(64, 7)).astype(np.float32)
    kernel = DRAW.normal(size=(7, 4)).astype(np.float32)
    bias = DRAW.normal(size=4).astype(np.float32)

    def loss(layer, row, label):
        logits = row @ layer[0] + layer[1]
        return losses.cross_entropy(logits[None], label[None])[0]

    slopes = jax.vmap(jax.grad(loss), (None, 0, 0))((kernel, bias), embedding, LABEL)
    squares = [np.sum(np.square(g), axis=tuple(range(1, g.ndim))) for g in slopes]
    delta = scores.error_vector(jnp.asarray(embedding @ kernel + bias), SEEN.label)
    found = scores.grand(delta, jnp.asarray(embedding))
    np.testing.assert_allclose(found, np.sqrt(sum(squares)), rtol=1e-4)
    nothing = jnp.zeros_like(embedding)
    np.testing.assert_allclose(
        scores.grand(scores.error_vector(SEEN.logits, SEEN.label), nothing),
        build("el2n")(SEEN),
        rtol=1e-6,
    )


@EVERY
def test_every_score_is_by_example_and_finite(name):
    found = build(name)(SEEN)
    assert found.shape == (64,) and found.dtype == jnp.float32
    part = scores.Prediction(*(x[3:5] for x in SEEN))
    np.testing.assert_allclose(build(name)(part), found[3:5], rtol=1e-5)
    extreme = prediction(sure(0, 1), sure(1, 1), 0, 0)
    assert bool(jnp.all(jnp.isfinite(build(name)(extreme))))


@EVERY
def test_larger_means_harder(name):
    # Certain and right under attack, against certain and wrong.
    easy, hard = sure(0), sure(1)
    attacked = prediction(easy, easy, 0), prediction(easy, hard, 0)
    misread = prediction(easy, easy, 0), prediction(hard, easy, 0)
    clean_only = name in {"clean_error", "el2n", "w_nat"}
    low, high = misread if clean_only else attacked
    assert float(build(name)(high)[0]) > float(build(name)(low)[0])


@pytest.mark.parametrize(
    "name,option,message",
    (
        ("w_nat", {"output": "probs"}, "choose from logits, softmax"),
        ("robust_risk", {"output": "probs"}, "choose from logits, softmax"),
        ("robust_risk", {"combine": "mean"}, "choose from bdy, nat, product, sum"),
        ("margin", {"on": "attacked"}, "choose from adversarial, clean"),
        ("error", {"on": "attacked"}, "choose from adversarial, clean"),
        ("el2n", {"on": "attacked"}, "choose from adversarial, clean"),
        ("input_gradient", {"on": "attacked"}, "choose from adversarial, clean"),
    ),
)
def test_an_unknown_choice_lists_the_known_ones(name, option, message):
    with pytest.raises(UserError, match=message):
        build(name, **option)
