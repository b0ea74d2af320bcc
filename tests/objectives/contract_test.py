"""What every objective promises, run over every member of OBJECTIVES.

`forward` is a linear model whose "statistics" are the list of images it has seen, so
the rules for BatchNorm can be read off.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrobust import registry
from jaxrobust.errors import UserError
from jaxrobust.objectives import OBJECTIVES
from jaxrobust.objectives.base import BN_UPDATES
from tests.helpers import linear_logits, make_batch, random_weight

SPECS = {
    # Along the sign, which stays as it is when weights move a little: finite
    # differences see the direction move, gradients do not.
    "curvature": {
        "curv_weight": 2.0,
        "curv_h": 0.3,
        "variant": "squared",
        "direction": "sign",
        "term_bn": "batch",
    },
    "gradient_norm": {"grad_weight": 2.0, "variant": "squared", "term_bn": "batch"},
    "mart": {"beta": 5.0, "bn_update": "adv"},
    "pgd_at": {"bn_update": "adv"},
    "stability": {"beta": 6.0, "bn_update": "adv"},
    "standard": {},
    "trades": {"beta": 6.0, "bn_update": "adv"},
}
EVERY = pytest.mark.parametrize("name", sorted(OBJECTIVES))
CLEAN = ("curvature", "gradient_norm", "standard")
ADVERSARIAL = pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - set(CLEAN)))
BATCH = make_batch(6)
ADV = jnp.clip(BATCH.image + 0.1 * np.sign(BATCH.image - 0.3), 0, 1)
WEIGHT = jnp.asarray(random_weight())


def build(name, **options):
    return registry.build(
        "objective", OBJECTIVES, {"name": name, **SPECS[name]} | options
    )


def forward_with(weight, batch=BATCH, adv=ADV):
    """A Forward whose statistics are the names of the images it has seen."""
    calls = []

    def forward(image, stats):
        name = {id(batch.image): "clean", id(adv): "adv"}.get(id(image), "other")
        calls.append(name)
        stats = ("start",) if stats is None else stats
        return linear_logits(weight)(image), (*stats, name)

    return forward, calls


def outcome(name, batch=BATCH, adv=ADV, weight=WEIGHT, **options):
    forward, _ = forward_with(weight, batch, adv)
    return build(name, **options).outer(forward, batch, adv)


def test_every_objective_is_under_contract():
    assert set(SPECS) == set(OBJECTIVES)


@EVERY
def test_the_loss_is_by_example_and_finite(name):
    found = outcome(name)
    assert found.loss.shape == (6,) and found.loss.dtype == jnp.float32
    assert found.logits.shape == (6, 3)
    assert bool(jnp.all(jnp.isfinite(found.loss)))
    assert float(found.loss.min()) >= 0


@EVERY
def test_a_rows_loss_does_not_see_its_neighbours(name):
    part = jax.tree.map(lambda x: x[2:4], BATCH)
    alone = outcome(name, part, ADV[2:4])
    np.testing.assert_allclose(alone.loss, outcome(name).loss[2:4], rtol=1e-5)


@EVERY
def test_weights_are_the_steps_business(name):
    heavy = BATCH._replace(weight=BATCH.weight * 7)
    np.testing.assert_array_equal(outcome(name, heavy).loss, outcome(name).loss)


@EVERY
def test_one_hot_soft_labels_are_labels(name):
    soft = BATCH._replace(soft_label=jax.nn.one_hot(BATCH.label, 3))
    np.testing.assert_allclose(outcome(name, soft).loss, outcome(name).loss, rtol=1e-5)


@EVERY
def test_soft_labels_are_used(name):
    uniform = BATCH._replace(soft_label=jnp.full((6, 3), 1 / 3))
    assert not np.allclose(outcome(name, uniform).loss, outcome(name).loss)


@EVERY
def test_gradients_are_those_of_finite_differences(name):
    objective = build(name)

    def total(weight):
        forward, _ = forward_with(weight)
        return objective.outer(forward, BATCH, ADV).loss.sum()

    check_grads(total, (0.3 * WEIGHT,), order=1, modes=("rev",), rtol=2e-2, eps=1e-2)


@ADVERSARIAL
@pytest.mark.parametrize(
    "rule,kept",
    (
        ("adv", ("start", "adv")),
        ("clean", ("start", "clean")),
        ("both", ("start", "clean", "adv")),
    ),
)
def test_bn_update_says_which_passes_move_the_statistics(name, rule, kept):
    assert outcome(name, bn_update=rule).batch_stats == kept


@pytest.mark.parametrize("name", CLEAN)
def test_training_without_an_attack_moves_statistics_by_clean_images(name):
    assert outcome(name).batch_stats == ("start", "clean")


def test_no_forward_pass_is_spent_for_nothing():
    passes_of = {"standard": 1, "pgd_at": 1, "trades": 2, "mart": 2, "stability": 2}
    passes_of |= {"curvature": 3, "gradient_norm": 2}
    for name, passes in passes_of.items():
        forward, calls = forward_with(WEIGHT)
        build(name).outer(forward, BATCH, ADV)
        assert len(calls) == passes, name


@ADVERSARIAL
def test_training_accuracy_is_read_from_attacked_images(name):
    np.testing.assert_array_equal(outcome(name).logits, linear_logits(WEIGHT)(ADV))


@ADVERSARIAL
def test_unknown_bn_update_lists_the_rules(name):
    with pytest.raises(UserError, match=", ".join(sorted(BN_UPDATES))):
        build(name, bn_update="none")


@EVERY
def test_the_attack_climbs_against_the_objectives_own_target(name):
    objective = build(name)
    if objective.inner is None:
        return
    target = objective.target(linear_logits(WEIGHT), BATCH)
    assert target.shape in ((6,), (6, 3))
    assert objective.inner(linear_logits(WEIGHT)(ADV), target).shape == (6,)
