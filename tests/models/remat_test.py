"""Blocks computed again on the way back: the same network in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.pgd import pgd
from jaxrobust.distill.recover import bind_teacher
from jaxrobust.models.layers import Layers
from jaxrobust.models.resnet import ResNet
from jaxrobust.models.wide_resnet import wide_resnet
from jaxrobust.objectives.curvature import curvature
from jaxrobust.state import bind, forward_fn
from jaxrobust.threat import make_threat
from tests.helpers import (
    assert_trees_close,
    assert_trees_equal,
    make_batch,
    variables_of,
)

NETS = {"resnet": {}, "wide_resnet": {"depth": 10, "width": 1}}
SHAPE = (8, 8, 1)
KEYS = jax.random.split(jax.random.key(0), 6)


def make(name, remat, **options):
    given = 3, (0.5,), (0.25,)
    if name == "resnet":
        layers = Layers("float32", "relu", "batch", "auto")
        return ResNet(*given, layers, (1, 1), 4, remat)
    return wide_resnet(*given, remat=remat, **NETS[name] | options)


def images(count=6):
    draw = np.random.default_rng(0).uniform(size=(count, *SHAPE))
    return jnp.asarray(draw, jnp.float32), jnp.arange(count) % 3


def attack(num_steps):
    linf = make_threat("linf", 0.1)
    loss = losses.cross_entropy
    return pgd(linf, loss, 0.03, num_steps, "none", num_restarts=1, keep_best=False)


def step(model, num_steps):
    """(variables, image, label, keys) -> ((loss, statistics), gradient, x_adv): all
    that a training step takes of a network."""

    def run(variables, image, label, keys):
        logits_fn = bind(model, variables, bn="batch")
        x_adv = attack(num_steps)(keys, logits_fn, image, label)

        def loss(params):
            forward = forward_fn(model, params, variables["batch_stats"])
            logits, stats = forward(x_adv, None)
            return losses.cross_entropy(logits, label).mean(), stats

        grad = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return *grad, x_adv

    return jax.jit(run)


@pytest.mark.parametrize("name", NETS)
def test_the_same_step_with_the_same_names(name):
    variables = variables_of(make(name, False), shape=SHAPE)
    assert_trees_equal(variables, variables_of(make(name, True), shape=SHAPE))
    variables = jax.tree.map(lambda x: 0.3 * x if x.ndim > 1 else x, variables)
    found = [
        step(make(name, remat), 2)(variables, *images(), KEYS)
        for remat in (False, True)
    ]
    assert np.isfinite(found[0][0][0]) and float(found[0][0][0]) > 0
    assert_trees_close(*found, rtol=1e-4, atol=1e-5)


def kept_bytes(remat):
    """Of what a forward pass of 64 images keeps for the way back, weights included."""
    image = jax.ShapeDtypeStruct((64, *SHAPE), jnp.float32)
    model = make("wide_resnet", remat, depth=28)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    variables = jax.eval_shape(init)

    def back(variables, image):
        def logits(params, image):
            return forward_fn(model, params, variables["batch_stats"])(image, None)[0]

        return jax.vjp(logits, variables["params"], image)[1]

    kept = jax.tree.leaves(jax.eval_shape(back, variables, image))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


def test_only_what_enters_a_block_is_kept():
    # The memory of a compiled step says nothing here: XLA:CPU merges what is computed
    # twice, or computes it early.
    assert kept_bytes(True) < 0.4 * kept_bytes(False)


def test_penalties_on_curvature_go_through():
    objective = curvature(0.5, 0.3, "squared", "gradient", "running")
    image, label = images()
    batch = make_batch()._replace(image=image, label=label)
    variables = variables_of(make("wide_resnet", False), shape=SHAPE)

    def loss(remat):
        model = make("wide_resnet", remat)

        def of(params):
            forward = forward_fn(model, params, variables["batch_stats"])
            return objective.outer(forward, batch, batch.image).loss.mean()

        return jax.jit(jax.value_and_grad(of))(variables["params"])

    assert_trees_close(loss(True), loss(False), rtol=1e-3, atol=1e-4)


def test_a_teacher_tells_its_gaps():
    variables = variables_of(make("wide_resnet", False), shape=SHAPE)
    gaps = [
        jax.jit(bind_teacher(make("wide_resnet", remat), variables))(images()[0])[1]
        for remat in (False, True)
    ]
    np.testing.assert_allclose(*gaps, rtol=1e-5)
