"""Selection inside a step: known batches, known rows, and nothing computed in vain."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses, registry, rng, sharding
from jaxrobust.attacks import ATTACKS
from jaxrobust.attacks.pgd import pgd_split
from jaxrobust.errors import UserError
from jaxrobust.selection import adaptive
from jaxrobust.selection.in_batch import SELECTORS, Craft, kept_rows, passes
from jaxrobust.threat import make_threat
from tests.bench import hlo_flops
from tests.helpers import (
    count_dots,
    linear_logits,
    make_batch,
    on_devices,
    random_weight,
)

BATCH = make_batch(8)
KEYS = rng.step_keys(jax.random.key(3), 0)
LOGITS_FN = linear_logits(random_weight())
THREAT = make_threat("linf", 0.1)
PGD = {"step_size": 0.05, "num_steps": 4, "start": "uniform"}
SPECS = {
    "all": {},
    "union": {
        "keep": 0.5,
        "error": "cross_entropy",
        "order": "hard",
        "count_minimum": True,
    },
    "before_attack": {"keep": 0.5, "look": "clean", "order": "hard"},
    "during_attack": {"keep": 0.5, "first_steps": 2, "order": "hard"},
    "after_attack": {"keep": 0.5, "order": "hard"},
}
EVERY = pytest.mark.parametrize("name", sorted(SELECTORS))


def attack():
    spec = {"name": "pgd", **PGD, "num_restarts": 1, "keep_best": False}
    loss = losses.cross_entropy
    return registry.build("attack", ATTACKS, spec, threat=THREAT, loss=loss)


CRAFT = Craft(attack(), lambda logits_fn, batch: batch.target)


def selector(name, **changed):
    split = partial(pgd_split, THREAT, losses.cross_entropy, *PGD.values())
    spec = {"name": name, **SPECS[name], **changed}
    return registry.build("selector", SELECTORS, spec, threat=THREAT, split=split)


def run(name, batch=BATCH, **changed):
    select = selector(name, **changed)
    return jax.jit(lambda b: select(KEYS, LOGITS_FN, b, CRAFT))(batch)


def errors(image, label):
    return np.asarray(losses.cross_entropy(LOGITS_FN(image), label))


def hardest(error, count):
    return np.sort(np.argsort(-error, kind="stable")[:count])


def everything():
    return np.asarray(CRAFT(KEYS, LOGITS_FN, BATCH))


def test_every_selector_is_under_contract():
    assert set(SPECS) == set(SELECTORS)


@EVERY
def test_sizes_are_static_and_rows_belong_together(name):
    found = run(name)
    count = 8 if name in ("all", "union") else 4
    assert len(found.batch.image) == len(found.x_adv) == count
    away = np.abs(np.asarray(found.x_adv - found.batch.image)).max()
    assert away <= 0.1 + 1e-6
    for place, label in zip(found.batch.index, found.batch.label):
        assert label == BATCH.label[place]


@EVERY
def test_permuting_the_batch_permutes_the_selection_and_nothing_else(name):
    order = np.random.default_rng(0).permutation(8)
    shuffled = run(name, jax.tree.map(lambda x: x[order], BATCH))
    pairs = lambda chosen: sorted(
        (int(i), round(float(x.sum()), 4))
        for i, x in zip(chosen.batch.index, chosen.x_adv)
    )
    assert pairs(run(name)) == pairs(shuffled)


def test_the_union_takes_the_largest_errors_of_clean_and_attacked_images():
    x_adv = everything()
    both = np.concatenate([BATCH.image, x_adv])
    error = errors(both, np.tile(BATCH.label, 2))
    rows = hardest(error, 8)
    found = run("union")
    np.testing.assert_allclose(found.batch.image, both[rows], atol=1e-6)
    np.testing.assert_array_equal(found.x_adv, found.batch.image)
    assert found.facts["chosen_adv"] == (rows >= 8).sum()
    assert found.facts["chosen_clean"] == (rows < 8).sum()
    assert found.facts["keep"] == 0.5
    right = np.asarray(LOGITS_FN(both)).argmax(1) == np.tile(BATCH.label, 2)
    np.testing.assert_allclose(found.facts["pool_acc"], right.mean())


def test_near_minimal_images_fool_and_half_of_them_does_not():
    x_adv = everything()
    reads = lambda x: np.asarray(LOGITS_FN(x)).argmax(1) == np.asarray(BATCH.label)
    minimal = ~reads(x_adv) & reads((BATCH.image + x_adv) / 2)
    found = run("union", keep=1.0)
    assert found.facts["chosen_minimum"] == minimal.sum()


@pytest.mark.parametrize("order,sign", (("hard", 1), ("easy", -1)))
def test_before_the_attack_the_clean_errors_decide(order, sign):
    rows = hardest(sign * errors(BATCH.image, BATCH.label), 4)
    found = run("before_attack", order=order)
    np.testing.assert_array_equal(found.batch.index, BATCH.index[rows])
    # The chosen rows are attacked as they would have been among all.
    np.testing.assert_allclose(found.x_adv, everything()[rows], atol=1e-6)


def test_after_the_attack_its_errors_decide():
    x_adv = everything()
    rows = hardest(errors(x_adv, BATCH.label), 4)
    found = run("after_attack")
    np.testing.assert_array_equal(found.batch.index, BATCH.index[rows])
    np.testing.assert_allclose(found.x_adv, x_adv[rows], atol=1e-6)


@pytest.mark.parametrize("first_steps", (1, 2, 4))
def test_during_the_attack_its_own_losses_decide(first_steps):
    found = run("during_attack", first_steps=first_steps)
    shorter = {**PGD, "num_steps": first_steps - 1}
    spec = {"name": "pgd", **shorter, "num_restarts": 1, "keep_best": False}
    loss = losses.cross_entropy
    before = registry.build("attack", ATTACKS, spec, threat=THREAT, loss=loss)
    keys = rng.per_example(KEYS.attack, BATCH.index)
    seen = before(keys, LOGITS_FN, BATCH.image, BATCH.label)
    rows = hardest(errors(seen, BATCH.label), 4)
    np.testing.assert_array_equal(found.batch.index, BATCH.index[rows])
    np.testing.assert_allclose(found.x_adv, everything()[rows], atol=1e-6)


def test_equation_8_as_printed_reads_no_label():
    relabelled = BATCH._replace(label=(BATCH.label + 1) % 3)
    plain = {"order": "hard", "count_minimum": False, "error": "log_sum_exp"}
    blind = Craft(None, CRAFT.target)
    select = selector("union", **plain)
    here, there = (
        select(KEYS, LOGITS_FN, batch, blind).batch.index
        for batch in (BATCH, relabelled)
    )
    np.testing.assert_array_equal(here, there)


def test_random_choices_are_keyed_and_differ_by_step():
    picks = [
        np.asarray(
            selector("after_attack", order="random")(
                rng.step_keys(jax.random.key(3), step), LOGITS_FN, BATCH, CRAFT
            ).batch.index
        )
        for step in (0, 0, 1, 2)
    ]
    np.testing.assert_array_equal(picks[0], picks[1])
    assert any(not np.array_equal(picks[0], other) for other in picks[2:])


def test_during_costs_no_forward_of_its_own():
    def dots(name, **changed):
        select = selector(name, **changed)
        return count_dots(lambda b: select(KEYS, LOGITS_FN, b, CRAFT), BATCH)

    plain = dots("all")
    assert dots("during_attack") == plain
    assert dots("before_attack") == dots("after_attack") == plain + 1


@pytest.mark.parametrize(
    "spec,expected",
    (
        ({"name": "all"}, 23),
        ({"name": "before_attack", "keep": 0.5}, 12.5),
        ({"name": "during_attack", "keep": 0.5, "first_steps": 3}, 14.5),
        ({"name": "after_attack", "keep": 0.5}, 22.5),
        ({"name": "union", "keep": 0.5, "count_minimum": False}, 25),
    ),
)
def test_the_arithmetic_of_pgd_10(spec, expected):
    assert passes(spec, attack_steps=10, update=3.0) == expected


@pytest.mark.parametrize(
    "spec,expected",
    (
        ({"name": "all"}, 26),
        ({"name": "before_attack", "keep": 0.5}, 14),
        ({"name": "during_attack", "keep": 0.5, "first_steps": 3}, 16),
        ({"name": "after_attack", "keep": 0.5}, 24),
    ),
)
def test_an_update_on_two_passes_costs_twice_as_much(spec, expected):
    assert passes(spec, attack_steps=10, update=6.0) == expected


def test_the_share_follows_equation_9_on_a_recorded_trace():
    trace = np.array([[0.1, 0.3], [0.5, 0.7], [0.9, 0.9], [0.0, 0.0]])
    state, seen = adaptive.init(), []
    for epoch in trace:
        for accuracy in epoch:
            seen.append(float(state["p_up"]))
            state = adaptive.update(state, jnp.float32(accuracy), epoch_steps=2)
    expected = np.cumprod(1 - np.concatenate([[0.0], trace.mean(1)]))
    np.testing.assert_allclose(seen[::2], expected[:-1], rtol=1e-6)
    np.testing.assert_allclose(seen[1::2], expected[:-1], rtol=1e-6)
    np.testing.assert_allclose(state["p_up"], expected[-1], rtol=1e-6)


@pytest.mark.parametrize(
    "p_up,size", ((1.0, 1.0), (0.6, 0.7), (0.5, 0.5), (0.01, 0.2), (2.0, 1.0))
)
def test_static_sizes_never_select_less_than_equation_9(p_up, size):
    assert adaptive.static_size(p_up, (1.0, 0.7, 0.5, 0.2)) == size


def test_at_least_one_row_is_kept():
    assert kept_rows(0.001, 8) == 1 and kept_rows(0.5, 8) == 4


@pytest.mark.parametrize(
    "name,changed,message",
    (
        ("union", {"keep": 0.0}, "share of the batch"),
        ("union", {"order": "mid"}, "choose from"),
        ("union", {"error": "hinge"}, "choose from"),
        ("before_attack", {"look": "late"}, "choose from"),
        ("during_attack", {"first_steps": 5}, "first_steps"),
    ),
)
def test_an_impossible_selection_is_the_users_mistake(name, changed, message):
    with pytest.raises(UserError, match=message):
        selector(name, **changed)


def test_an_attack_that_cannot_be_cut_is_refused():
    spec = {"name": "during_attack", **SPECS["during_attack"]}
    with pytest.raises(UserError, match="cannot be interrupted"):
        registry.build("selector", SELECTORS, spec, threat=THREAT, split=None)


def share_of_two_devices():
    """{selector: products of one of two devices / of one alone}, each a step's."""
    found = {}
    for name in SPECS:
        counts = []
        for devices in (1, 2):
            mesh = sharding.make_mesh(devices)
            craft = CRAFT._replace(mesh=mesh)

            def chosen(batch, name=name, craft=craft, mesh=mesh):
                batch = sharding.split_batch(batch, mesh)
                return selector(name)(KEYS, LOGITS_FN, batch, craft).x_adv

            text = jax.jit(chosen).lower(BATCH).compile().as_text()
            counts.append(hlo_flops.parse(text).flops())
        found[name] = counts[1] / counts[0]
    return found


def test_devices_share_the_attack_on_chosen_rows():
    found = on_devices(2, share_of_two_devices)
    assert set(found.values()) == {0.5}, found
