"""Rows that are one training step, or what a step does to a pool."""

import os
from functools import partial

import jax
import numpy as np

from jaxrobust import scores, sharding
from jaxrobust.data.image_set import ImageSet
from jaxrobust.loader import Feed, Pool
from jaxrobust.selection.scoring import Frozen, ScoringPass
from jaxrobust.selection.topk import take_top
from jaxrobust.state import bind, init_variables
from tests.bench import nominal, step_jax
from tests.bench import selection as selecting
from tests.bench.found import DTYPES, Found, measure
from tests.bench.plan import Plan, Row
from tests.bench.timing import random_batch

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
THREADS = len(os.sched_getaffinity(0))


def forward_of(net: str, images: int) -> float:
    """Operations of a forward pass, convolved as XLA would."""
    return nominal.forward_flops(step_jax.make_model(net, "xla"), (images, *SHAPE))


def fresh(row: Row):
    """(model, variables, logits_fn) of the row's network."""
    model = step_jax.make_model(row.net, dtype=DTYPES[row.precision])
    variables = jax.jit(partial(init_variables, model, SHAPE))(KEY)
    return model, variables, bind(model, variables, bn="running")


def images_of(count: int) -> ImageSet:
    """Random pixels."""
    image, label = random_batch(count)
    return ImageSet(image, label, tuple("0123456789"), "random")


def training(row: Row, plan: Plan) -> Found:
    """A training step."""
    data, chunk = random_batch(plan.batch[row.net]), plan.chunk[row.kind]
    dtype, given = DTYPES[row.precision], {"method": row.kind}
    makers = {
        "ours": lambda: step_jax.make_runner(
            row.net, *data, chunk, devices=jax.device_count(), dtype=dtype, **given
        )
    }
    makers |= {form: _torch_step(row, plan, data, form, given) for form in row.peers}
    least = step_jax.make_method(row.kind).passes * forward_of(row.net, len(data[0]))
    what = f"step of {len(data[0])}"
    return measure(row, plan, what, len(data[0]), least, makers, chunk=chunk)


def _torch_step(row, plan, data, form, given):
    def make():
        from tests.bench import step_torch

        chunk = plan.chunk[row.kind]
        return step_torch.make_runner(row.net, *data, chunk, THREADS, form, **given)

    return make


def selection(row: Row, plan: Plan) -> Found:
    """Half of a batch, chosen before the attack; against learning from all of it, and
    in PyTorch against choosing after the attack, as published."""
    data, dtype = random_batch(plan.batch[row.net]), DTYPES[row.precision]
    chunk = plan.chunk[row.kind]
    ours = lambda spec: selecting.runner(
        row.net, selecting.SPECS[spec], *data, dtype, chunk
    )
    makers = {"ours": lambda: ours("before (start)")}
    for peer in row.peers:
        makers[peer] = _torch_step(row, plan, data, peer, {"keep": 0.5})
    makers |= {"all rows": lambda: ours("all")}
    spec = selecting.SPECS["before (start)"]
    passes = selecting.passes(spec, step_jax.NUM_STEPS, 3.0)
    least = passes * forward_of(row.net, len(data[0]))
    what = f"step of {len(data[0])}, half learnt"
    return measure(row, plan, what, len(data[0]), least, makers, chunk=chunk)


def scoring(row: Row, plan: Plan) -> Found:
    """An attack on every image of a pool, its robust risk, and the harder half."""
    size, images = plan.batch[row.net], images_of(plan.pool)
    attack = step_jax.make_attack(plan.attack_steps)
    risk = {"risk": scores.robust_risk(output="softmax", combine="sum")}
    mesh = sharding.make_mesh(0)

    def ours():
        score, feed = (
            ScoringPass(attack, risk, size, mesh),
            Feed(Pool((images,)), mesh, 4),
        )
        network = jax.device_put(Frozen(fresh(row)[2]), sharding.replicated(mesh))
        label = sharding.replicate(images.label, mesh)
        key = sharding.replicate_key(KEY, mesh)

        def run():
            worst = score(network, feed, np.arange(plan.pool), key)["risk"]
            given = (plan.pool, plan.pool // 2, "hard", True)
            return jax.block_until_ready(take_top(worst, label, key, *given))

        return run

    makers = {"ours": ours} | {
        form: _torch_scoring(row, plan, form) for form in row.peers
    }
    least = (2 * plan.attack_steps + 2) * forward_of(row.net, plan.pool)
    what = f"{plan.pool} images, the harder half"
    return measure(row, plan, what, plan.pool, least, makers)


def _torch_scoring(row, plan, form):
    def make():
        from tests.bench import peers

        data = random_batch(plan.pool)
        return peers.scoring(row.net, *data, plan.batch[row.net], THREADS, form)

    return make
