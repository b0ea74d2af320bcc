"""The protocol: closed forms, and flags that depend on nothing but keys and images."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxrobust import sharding
from jaxrobust.attacks.apgd import apgd_component
from jaxrobust.attacks.fab import fab_component
from jaxrobust.attacks.square import square_component
from jaxrobust.errors import UserError
from jaxrobust.evaluators import engine as engines
from jaxrobust.evaluators import protocol
from jaxrobust.evaluators.engine import Engine, Images
from jaxrobust.evaluators.suites import suite, suite_name
from jaxrobust.threat import make_threat
from tests.helpers import linear_logits, on_devices, random_images, random_weight

COUNT, CLASSES, EPS = 40, 5, 0.04
WEIGHT = random_weight(classes=CLASSES)
LINEAR = linear_logits(WEIGHT)
IMAGE = random_images(COUNT, low=0.3, high=0.7)
LOGITS = np.asarray(LINEAR(IMAGE))
LABEL = LOGITS.argmax(1).astype(np.int32)
LABEL[:3] = (LABEL[:3] + 1) % CLASSES
KEY = jax.random.key(5)
SHORT = (
    apgd_component("apgd-ce", "cross_entropy", 12, 2),
    apgd_component("apgd-t", "dlr_targeted", 12, 4),
    fab_component("fab-t", 12, 4, targeted=True),
    square_component("square", 60, 1, 0.8, False),
)


def network(weights, x):
    return jax.numpy.tanh(LINEAR(x)) @ weights


BENT = jax.tree_util.Partial(network, random_weight(3, CLASSES, (CLASSES, 1, 1)))
BENT_LABEL = np.asarray(BENT(IMAGE)).argmax(1).astype(np.int32)


def closed_form(norm):
    """bool[N]: no other class within eps, for a linear network away from the box."""
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    robust = np.ones(COUNT, bool)
    for i, y in enumerate(LABEL):
        for k in set(range(CLASSES)) - {y}:
            size = np.linalg.norm(WEIGHT[:, k] - WEIGHT[:, y], dual)
            robust[i] &= LOGITS[i, y] - LOGITS[i, k] > RADIUS[norm] * size
    return robust


RADIUS = {"linf": EPS, "l2": 0.15, "l1": 0.4}


def evaluate(
    batch_size=16, norm="linf", components=SHORT, order=None, ledger=None,
    on_turn=lambda *_: None, network=BENT, label=BENT_LABEL, chunk_steps=9,
):  # fmt: skip
    """The finished ledger; `order` permutes the set but not the images' numbers."""
    order = np.arange(COUNT) if order is None else order
    image, label = IMAGE[order], label[order]
    if ledger is None:
        logits = np.asarray(network(image))
        ledger = protocol.open_ledger(logits, label, np.zeros_like(image))
    images = Images(
        lambda i: image[i],
        label,
        ledger.others,
        np.arange(COUNT, dtype=np.int32)[order],
    )
    attacker = protocol.Attacker(
        Engine(batch_size, chunk_steps, sharding.make_mesh(1)),
        make_threat(norm, RADIUS[norm]),
        network, network, images, KEY, on_turn,
    )  # fmt: skip
    attacker.attack(ledger, components)
    return ledger


@pytest.fixture(scope="module")
def whole():
    return evaluate()


@pytest.mark.parametrize("norm", RADIUS)
def test_linear_networks_meet_the_closed_form(norm):
    ledger = evaluate(norm=norm, network=LINEAR, label=LABEL, components=SHORT[:3])
    robust = closed_form(norm)
    assert 5 < robust.sum() < COUNT - 5
    # First-order attacks of a few steps: never stronger, hardly weaker.
    assert not (ledger.robust & ~robust).sum() > (1 if norm != "l1" else 3)
    assert not (robust & ~ledger.robust).any()
    assert (ledger.fooled_by[:3] == protocol.CLEAN).all()


@pytest.mark.parametrize("batch_size", (1, 7, 64))
def test_flags_do_not_depend_on_the_batch_size(whole, batch_size):
    assert 3 < whole.robust.sum() < COUNT - 3
    other = evaluate(batch_size)
    np.testing.assert_array_equal(other.fooled_by, whole.fooled_by)
    np.testing.assert_array_equal(other.fooled_in, whole.fooled_in)
    np.testing.assert_allclose(other.x_adv, whole.x_adv, atol=1e-5)


def test_flags_do_not_depend_on_order(whole):
    order = np.random.default_rng(0).permutation(COUNT)
    other = evaluate(order=order)
    np.testing.assert_array_equal(other.fooled_by, whole.fooled_by[order])
    np.testing.assert_allclose(other.x_adv, whole.x_adv[order], atol=1e-5)


def test_flags_do_not_depend_on_compaction(whole, monkeypatch):
    monkeypatch.setattr(engines, "LONG_STEPS", 1)
    monkeypatch.setattr(engines, "REFILL_SHARE", 1.0)
    np.testing.assert_array_equal(evaluate().fooled_by, whole.fooled_by)


class Cut(Exception):
    pass


@pytest.mark.parametrize("stop", (1, 4, 9))
def test_a_cut_off_suite_ends_with_the_same_flags(whole, stop):
    looks, kept = [], {}

    def on_turn(ledger, component, share):
        looks.append(share)
        fields = ("fooled_by", "fooled_in", "others", "x_adv", "finished")
        kept.update({name: getattr(ledger, name).copy() for name in fields})
        kept["stage"] = ledger.stage
        if len(looks) == stop:
            raise Cut

    with pytest.raises(Cut):
        evaluate(batch_size=6, on_turn=on_turn)
    resumed = evaluate(batch_size=6, ledger=protocol.Ledger(**kept))
    np.testing.assert_array_equal(resumed.fooled_by, whole.fooled_by)
    np.testing.assert_array_equal(resumed.fooled_in, whole.fooled_in)
    np.testing.assert_allclose(resumed.x_adv, whole.x_adv, atol=1e-5)


def test_shares_of_progress_rise_to_one():
    shares = {}
    evaluate(on_turn=lambda _, c, share: shares.setdefault(c.name, []).append(share))
    for found in shares.values():
        assert found == sorted(found) and found[-1] == 1.0


def test_every_success_is_within_the_ball_and_fools(whole):
    hit = whole.fooled_by >= 0
    x_adv = whole.x_adv[hit]
    assert abs(x_adv - IMAGE[hit]).max() <= EPS + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (np.asarray(BENT(x_adv)).argmax(1) != BENT_LABEL[hit]).all()


def test_what_float32_does_not_confirm_is_refused():
    ledger = evaluate(components=SHORT[:1])
    hit = int((ledger.fooled_by >= 0).sum())
    assert hit > 3
    logits = np.asarray(BENT(IMAGE))
    fresh = protocol.open_ledger(logits, BENT_LABEL, np.zeros_like(IMAGE))
    images = Images(
        lambda i: IMAGE[i], BENT_LABEL, fresh.others, np.arange(COUNT, dtype=np.int32)
    )
    common = int(np.bincount(BENT_LABEL).argmax())
    stubborn = lambda x: jax.nn.one_hot(jax.numpy.full(len(x), common), CLASSES)
    attacker = protocol.Attacker(
        Engine(16, 9, sharding.make_mesh(1)), make_threat("linf", EPS), BENT, BENT,
        images, KEY, lambda *_: None,
    )  # fmt: skip
    dataclasses.replace(attacker, verify_fn=stubborn).attack(fresh, SHORT[:1])
    mine = BENT_LABEL == common
    assert (ledger.fooled_by[mine] >= 0).any() and fresh.refused >= 1
    assert not (fresh.fooled_by[mine] >= 0).any()


def test_one_compilation_serves_every_eps():
    programs = (engines._begin, engines._turn)
    before = [program._cache_size() for program in programs]
    for eps in (0.01, 0.02):
        threat = make_threat("l2", eps)
        ledger = protocol.open_ledger(LOGITS, LABEL, np.zeros_like(IMAGE))
        images = Images(
            lambda i: IMAGE[i], LABEL, ledger.others, np.arange(COUNT, dtype=np.int32)
        )
        protocol.Attacker(
            Engine(11, 9, sharding.make_mesh(1)), threat, LINEAR, LINEAR, images, KEY,
            lambda *_: None,
        ).attack(ledger, SHORT[:1])  # fmt: skip
    assert [program._cache_size() - 1 for program in programs] == before


def test_eps_zero_leaves_the_clean_accuracy_and_a_large_one_nothing():
    run = lambda eps: protocol.autoattack(
        BENT, IMAGE, BENT_LABEL, make_threat("linf", eps), key=KEY,
        version="custom", components=("apgd-ce",), batch_size=20,
    )  # fmt: skip
    assert run(0.0).robust.all()
    assert not run(1.0).robust.any()


@pytest.mark.parametrize("wrong", (-1, CLASSES))
def test_labels_that_the_network_has_no_logit_for_are_the_users_mistake(wrong):
    label = np.append(LABEL[1:], wrong)
    with pytest.raises(UserError, match=f"label {wrong} is outside 0..{CLASSES - 1}"):
        protocol.autoattack(LINEAR, IMAGE, label, make_threat("linf", EPS), key=KEY)


def test_images_and_labels_are_judged_as_they_are_given():
    attack = lambda image, label: protocol.autoattack(
        LINEAR, image, label, make_threat("linf", EPS), key=KEY
    )
    with pytest.raises(UserError, match="uint8"):
        attack((IMAGE * 255).astype(np.uint8), LABEL)
    with pytest.raises(UserError, match="not class numbers"):
        attack(IMAGE, LABEL + 0.5)


@pytest.mark.parametrize(
    "classes,names",
    (
        (2, ("apgd-ce", "apgd-margin", "fab-t", "square")),
        (3, ("apgd-ce", "apgd-margin", "apgd-dlr", "fab-t", "square")),
        (10, ("apgd-ce", "apgd-t", "fab-t", "square")),
    ),
)
def test_few_classes_have_their_own_rules(classes, names):
    found = suite("standard", "linf", classes)
    assert tuple(c.name for c in found) == names
    targeted = [c.runs for c in found if c.targeted]
    assert targeted == [min(9, classes - 1)] * len(targeted)
    named = suite_name("standard", classes, found)
    assert (named == "AutoAttack (standard)") == (classes == 10)


@pytest.mark.parametrize("version", ("lite", "torchattacks", "custom"))
def test_what_is_not_autoattack_is_not_called_so(version):
    custom = ("apgd-ce",) if version == "custom" else ()
    name = suite_name(version, 10, suite(version, "linf", 10, custom))
    assert "not" in name


def test_components_belong_to_version_custom():
    with pytest.raises(UserError, match="only for it"):
        suite("standard", "linf", 10, ("square",))
    with pytest.raises(UserError, match="choose from"):
        suite("custom", "linf", 10, ("squares",))
    with pytest.raises(UserError, match="needs 4 classes"):
        suite("custom", "linf", 3, ("apgd-t",))


def test_a_random_network_is_attacked_by_version_rand():
    def noisy(x, keys):
        draw = jax.vmap(lambda key: jax.random.normal(key, (CLASSES,)))(keys)
        return LINEAR(x) + 0.01 * draw

    found = protocol.autoattack(
        noisy, IMAGE[:8], LABEL[:8], make_threat("linf", 0.2), key=KEY, version="rand",
        batch_size=8,
    )  # fmt: skip
    assert list(found.by_attack) == ["apgd-ce-eot", "apgd-dlr-eot"]
    assert found.robust.sum() <= 1


def shared():
    """Who fools which image: one device, two that share the batches, and one where the
    weights lie on two."""
    both = sharding.make_mesh(0)
    spread = jax.tree_util.Partial(BENT.func, sharding.replicate(BENT.args[0], both))
    run = lambda network, mesh: protocol.autoattack(
        network, IMAGE[:7], BENT_LABEL[:7], make_threat("linf", EPS), key=KEY,
        version="custom", components=("apgd-ce", "square"), batch_size=5, mesh=mesh,
    ).fooled_by.tolist()  # fmt: skip
    return [run(BENT, None), run(BENT, both), run(spread, None)]


def test_devices_that_share_the_batches_find_the_same_flags():
    alone, both, spread = on_devices(2, shared)
    assert alone == both == spread
    assert len(set(alone)) > 1, "all images ended alike: nothing was compared"
