"""The training step does no arithmetic in vain and is as fast in a loop as outside."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.gradient import image_gradient
from jaxrobust.models import MODELS
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.selection.in_batch import all_rows
from jaxrobust.state import create_state, init_variables
from jaxrobust.train_step import make_train_step
from jaxrobust.types import Batch
from tests.bench import flops, step_jax

SHAPE = (16, 16, 16, 3)
STEPS = 3


def small_model(conv):
    return MODELS["convnet"](10, (0.5,) * 3, (0.25,) * 3, widths=(32, 32), conv=conv)


def test_step_needs_no_more_arithmetic_than_pgd_training_must():
    forward = flops.forward_flops(small_model("xla"), SHAPE)
    step, attack = flops.excess(small_model("xla"), SHAPE, STEPS, forward)
    assert 0.95 < attack <= flops.TOLERANCE, "parameter gradients in the attack?"
    assert 0.95 < step <= flops.TOLERANCE


def test_canonical_attack_takes_no_parameter_gradients_either():
    forward = flops.forward_flops(small_model("xla"), SHAPE)
    _, attack = flops.excess(small_model("canonical"), SHAPE, STEPS, forward)
    assert attack < 1.3, "1.5 with parameter gradients; the forms of unit_stride.py add"


def test_flop_count_knows_wasted_parameter_gradients():
    model = small_model("xla")
    variables = jax.eval_shape(
        lambda: init_variables(model, SHAPE[1:], jax.random.key(0))
    )

    def run(variables, image):
        def body(_, carry):
            image, params = carry
            loss = lambda p, x: jnp.sum(
                jnp.sin(model.apply({"params": p}, x, train=True))
            )
            slope, gradient = jax.grad(loss, (1, 0))(params, image)
            return image + slope, jax.tree.map(jnp.add, params, gradient)

        return jax.lax.fori_loop(0, 5, body, (image, variables["params"]))

    image = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    text = jax.jit(run).lower(variables, image).compile().as_text()
    wasted = flops.hlo_flops.parse(text).flops() / flops.forward_flops(model, SHAPE)
    assert wasted == pytest.approx(5 * 3, rel=0.05)


def unrolled_pgd(keys, logits_fn, image, target):
    gradient = image_gradient(logits_fn, losses.cross_entropy, target)
    x = image
    for _ in range(STEPS):
        x = jnp.clip(x + step_jax.STEP_SIZE * jnp.sign(gradient(x)[0]), 0.0, 1.0)
    return jax.lax.stop_gradient(x)


def cpu_seconds(run, repeats=5):
    """The least of several: other programs on the machine hardly move CPU seconds."""
    taken = []
    jax.block_until_ready(run())
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(run())
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a trap of XLA:CPU")
def test_scan_over_steps_is_not_slower_than_unrolled_steps():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=SHAPE), jnp.float32)
    rows = jnp.arange(SHAPE[0], dtype=jnp.int32)
    batch = Batch(image, rows % 10, jnp.ones(SHAPE[0]), rows)
    key = jax.random.key(0)

    def runner(conv, attack, unroll):
        step, tx = step_jax.make_step(small_model(conv), STEPS)
        if attack is not None:
            step = make_train_step(
                small_model(conv),
                tx,
                pgd_at("adv"),
                attack,
                all_rows(),
                *step_jax.plain_options(),
            )
        variables = jax.jit(partial(init_variables, small_model(conv), SHAPE[1:]))(key)
        state = create_state(variables, tx, with_ema=False)
        body = lambda state, _: step(state, batch, key)
        scan = jax.jit(lambda s: jax.lax.scan(body, s, None, length=4, unroll=unroll))
        return partial(scan, state)

    looped = cpu_seconds(runner("auto", None, 1))
    unrolled = cpu_seconds(runner("xla", unrolled_pgd, 4))
    assert looped < 2 * unrolled
