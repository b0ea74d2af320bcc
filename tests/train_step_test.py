"""The step is the sum of its parts and computes nothing in vain."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import losses, optim, registry, rng, tree
from jaxrobust.attacks import ATTACKS
from jaxrobust.objectives import OBJECTIVES
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from jaxrobust.objectives.trades import trades
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import bind, create_state, forward_fn, train_variables
from jaxrobust.threat import make_threat
from jaxrobust.train_step import StepOptions, make_train_step
from tests.helpers import (
    TinyNet,
    assert_trees_close,
    assert_trees_equal,
    count_dots,
    make_batch,
    variables_of,
)

THREAT = make_threat("linf", 0.1)
TX = optax.sgd(0.5, momentum=0.9)
KEY = jax.random.key(11)
BATCH = make_batch(6)
PLAIN = {
    "weight_norm": "batch",
    "attack_bn": "batch",
    "ema_decay": 0.0,
    "awp_gamma": 0.0,
    "awp_start_step": 0,
}


def pgd(num_steps=2, start="none"):
    spec = {"name": "pgd", "step_size": 0.05, "num_steps": num_steps, "start": start}
    spec |= {"num_restarts": 1, "keep_best": False}
    loss = losses.cross_entropy
    return registry.build("attack", ATTACKS, spec, threat=THREAT, loss=loss)


# Random starts cost seconds of compilation; one test is about them.
ATTACK, RANDOM = pgd(), pgd(start="uniform")
NET, NORMED = TinyNet(), TinyNet(norm=True)


def unchanged(key, batch):
    return batch


def fresh(net, seed=0):
    return create_state(variables_of(net, seed), TX, with_ema=True)


def make_step(objective=None, attack=ATTACK, net=NORMED, augment=unchanged, **options):
    objective = pgd_at("adv") if objective is None else objective
    options = StepOptions(**PLAIN | options)
    return make_train_step(net, TX, objective, attack, all_rows(), augment, options)


@cache
def compiled(**parts):
    """Equal parts are compiled once for all tests."""
    return jax.jit(make_step(**parts))


def one(batch=BATCH, net=NORMED, key=KEY, state=None, **parts):
    """(state, metrics) after one step."""
    step = compiled(net=net, **parts)
    return step(fresh(net) if state is None else state, batch, key)


@partial(jax.jit, static_argnums=(0, 2))
def attacked(net, state, attack_bn):
    """x_adv of a step, put together by hand."""
    keys = rng.per_example(rng.step_keys(KEY, state.step).attack, BATCH.index)
    logits_fn = bind(net, train_variables(state), attack_bn)
    return ATTACK(keys, logits_fn, BATCH.image, BATCH.label)


def loss_of(net, state, x):
    """params -> (mean loss, new statistics)."""

    def loss(params):
        logits, stats = forward_fn(net, params, state.batch_stats)(x, None)
        return losses.cross_entropy(logits, BATCH.label).mean(), stats

    return loss


@pytest.mark.parametrize("attack_bn", ("batch", "running"))
def test_a_step_is_attack_loss_gradient_update(attack_bn):
    state = fresh(NORMED)
    found, seen = one(attack_bn=attack_bn, ema_decay=0.99)
    x_adv = attacked(NORMED, state, attack_bn)
    slope = jax.jit(jax.value_and_grad(loss_of(NORMED, state, x_adv), has_aux=True))
    (loss, stats), grads = slope(state.params)
    updates, opt_state = TX.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    now = {"params": params, "batch_stats": stats}
    expected = {
        "params": params,
        "batch_stats": stats,
        "opt_state": opt_state,
        "ema": optim.update_ema(state.ema, now, 0.99, 0),
    }
    for name, value in expected.items():
        assert_trees_close(getattr(found, name), value, rtol=1e-4, atol=1e-5)
    assert int(found.step) == 1
    np.testing.assert_allclose(seen["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(seen["grad_norm"], tree.norm(grads), rtol=1e-4)


def test_the_attack_is_told_which_statistics_to_use():
    by_mode = [attacked(NORMED, fresh(NORMED), mode) for mode in ("batch", "running")]
    assert not np.allclose(*by_mode, atol=1e-3)


def test_awp_takes_the_gradient_at_the_perturbed_weights():
    state = fresh(NORMED)
    found, _ = one(awp_gamma=0.1)
    loss = loss_of(NORMED, state, attacked(NORMED, state, "batch"))
    slope = jax.jit(jax.grad(loss, has_aux=True))
    nearby = optim.perturb_weights(state.params, slope(state.params)[0], 0.1)
    grads, stats = slope(nearby)
    # The update starts from the unperturbed weights.
    updates, _ = TX.update(grads, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    assert_trees_close(found.params, expected, rtol=1e-4, atol=1e-5)
    assert_trees_close(found.batch_stats, stats, rtol=1e-4, atol=1e-5)


def test_awp_waits_for_its_first_step():
    later, _ = one(awp_gamma=0.1, awp_start_step=1)
    never, _ = one()
    assert_trees_close(later.params, never.params)
    state = fresh(NORMED).replace(step=jnp.int32(1))
    now, _ = one(awp_gamma=0.1, awp_start_step=1, state=state)
    plain, _ = one(state=state)
    gaps = jax.tree.map(lambda a, b: float(abs(a - b).max()), now.params, plain.params)
    assert max(jax.tree.leaves(gaps)) > 1e-4


def test_averages_are_left_alone_when_averaging_is_off():
    found, _ = one(ema_decay=0.0)
    assert_trees_equal(found.ema, fresh(NORMED).ema)


def test_augmentation_comes_first():
    def blank(key, batch):
        return batch._replace(image=jnp.full_like(batch.image, 0.5))

    grey = BATCH._replace(image=jnp.full_like(BATCH.image, 0.5))
    ours, theirs = one(augment=blank), one(grey)
    assert_trees_equal(ours[0].params, theirs[0].params)


def test_a_step_is_a_function_of_its_key_its_number_and_the_image_index():
    loss = lambda *args, **given: float(one(*args, attack=RANDOM, **given)[1]["loss"])
    base = loss()
    assert base == loss()
    moved = BATCH._replace(index=BATCH.index + 100)
    later = fresh(NORMED).replace(step=jnp.int32(7))
    others = {loss(moved), loss(key=jax.random.key(12)), loss(state=later)}
    assert len(others | {base}) == 4


def test_rows_of_weight_zero_do_not_move_a_network_without_batch_norm():
    weight = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 2.0])
    batch = BATCH._replace(weight=weight)
    garbage = batch.image.at[jnp.array([2, 4])].set(0.77)
    clean, seen = one(batch, net=NET)
    dirty, _ = one(batch._replace(image=garbage), net=NET)
    assert_trees_equal(clean.params, dirty.params)
    rest = jax.tree.map(lambda x: x[jnp.array([0, 1, 3, 5])], batch)
    alone, seen_alone = one(rest, net=NET)
    assert_trees_close(clean.params, alone.params)
    for name, value in seen.items():
        np.testing.assert_allclose(value, seen_alone[name], rtol=1e-5)


def test_a_weight_of_two_is_the_row_twice():
    heavy = BATCH._replace(weight=jnp.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    twice = jax.tree.map(lambda x: jnp.concatenate([x[:1], x]), BATCH)
    ours, theirs = one(heavy, net=NET), one(twice, net=NET)
    assert_trees_close(ours[0].params, theirs[0].params)


def test_a_nan_shows_in_loss_and_gradient():
    state = fresh(NORMED)
    broken = jax.tree.map(lambda w: w.at[(0,) * w.ndim].set(jnp.nan), state.params)
    _, seen = one(state=state.replace(params=broken))
    assert np.isnan(seen["loss"]) and np.isnan(seen["grad_norm"])
    assert float(seen["acc"]) == 0


# A network of two dense layers: 2 products forward, 2 more for the image's gradient,
# 3 for all gradients of the weights (the first layer's input needs none).
ATTACK_DOTS, TRAIN_DOTS = 4, 5


@pytest.mark.parametrize(
    "objective,attack,options,dots",
    (
        (standard(), pgd(3), {}, TRAIN_DOTS),
        (pgd_at("adv"), pgd(1), {}, ATTACK_DOTS + TRAIN_DOTS),
        (pgd_at("adv"), pgd(3), {}, 3 * ATTACK_DOTS + TRAIN_DOTS),
        # TRADES: the clean prediction first, and both passes are differentiated.
        (trades(6.0, "adv"), pgd(3), {}, 2 + 3 * ATTACK_DOTS + 2 * TRAIN_DOTS),
        (pgd_at("adv"), pgd(3), {"awp_gamma": 0.1}, 3 * ATTACK_DOTS + 2 * TRAIN_DOTS),
        (pgd_at("adv"), pgd(3), {"ema_decay": 0.9}, 3 * ATTACK_DOTS + TRAIN_DOTS),
    ),
)
def test_no_product_is_computed_in_vain(objective, attack, options, dots):
    step = make_step(objective, attack, NET, **options)
    assert count_dots(step, fresh(NET), BATCH, KEY) == dots


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_learns_a_separable_toy(name):
    given = {"beta": 3.0, "bn_update": "adv"}
    given |= {"curv_weight": 0.1, "curv_h": 0.1, "grad_weight": 0.1}
    given |= {"variant": "squared", "direction": "gradient", "term_bn": "running"}
    objective = registry.build("objective", OBJECTIVES, {"name": name}, **given)
    batch = make_batch(48)
    step = jax.jit(make_step(objective, pgd(1, "gaussian"), NET))
    state, history = fresh(NET), []
    for _ in range(40):
        state, seen = step(state, batch, KEY)
        history.append(seen)
    assert float(history[-1]["loss"]) < 0.6 * float(history[0]["loss"])
    assert float(history[0]["acc"]) < 0.6 and float(history[-1]["acc"]) > 0.9
