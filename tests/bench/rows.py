"""The rows of the one command: what is timed, against what, and its floor.

A floor is the least arithmetic at the rate of a matrix product in the same precision on
the same machine; MFU is the share of that rate which is reached. Networks are fresh:
what an attack costs hardly depends on its success.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import rng, scores, sharding
from jaxrobust.data.image_set import ImageSet
from jaxrobust.evaluators import autoattack
from jaxrobust.evaluators.smoothing import certify as certify_images
from jaxrobust.features import Factors
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.diffusion import PREDICTIONS, denoiser
from jaxrobust.generative.samplers import EVALUATIONS, SAMPLERS
from jaxrobust.generative.schedule import SCHEDULES
from jaxrobust.generative.times import uniform
from jaxrobust.loader import Feed, Pool
from jaxrobust.registry import build
from jaxrobust.selection.craig import craig
from jaxrobust.selection.gradmatch import gradmatch
from jaxrobust.selection.scoring import Frozen, ScoringPass
from jaxrobust.selection.topk import take_top
from jaxrobust.state import bind, init_variables
from jaxrobust.threat import make_threat
from tests.bench import machine, nominal, step_jax
from tests.bench.plan import Plan
from tests.bench.timing import in_turn, ratios
from tests.bench.train_step import batch as random_batch

HAS_TORCH = importlib.util.find_spec("torch") is not None
SIGMA, N0, ALPHA, TIMES = 0.25, 10, 0.001, 18


class Found(NamedTuple):
    """One line: `seconds` of `what`, the floor of that (0: none is known), and how many
    times as long each peer takes, round by round."""

    row: str
    what: str
    seconds: float
    floor: float
    ratios: dict[str, list[float]]
    note: str = ""

    @property
    def mfu(self) -> float:
        """floor / seconds."""
        return self.floor / self.seconds


def training(row: str, plan: Plan) -> Found:
    """A training step, "pgd_at:resnet18", against PyTorch."""
    method, net = row.split(":")
    data, chunk = random_batch(plan.batch[net]), plan.chunk
    given = {"method": method}
    runs = {"ours": step_jax.make_runner(net, *data, chunk, dtype=plan.dtype, **given)}
    if HAS_TORCH:
        from tests.bench import step_torch

        threads = len(os.sched_getaffinity(0))
        for form in plan.forms.get(row, plan.forms[""]):
            made = step_torch.make_runner(net, *data, chunk, threads, form, **given)
            runs[form] = made
    seconds = in_turn(runs, plan.rounds)
    forward = nominal.forward_flops(step_jax.make_model(net, "xla"), data[0].shape)
    least = step_jax.make_method(method).passes * forward
    taken = statistics.median(seconds["ours"]) / chunk
    peers = {name: ratios(seconds, name, to="ours") for name in runs if name != "ours"}
    return Found(row, f"step of {len(data[0])}", taken, least / _rate(plan), peers)


def scoring(row: str, plan: Plan) -> Found:
    """An attack on every image of a pool, its robust risk, and the harder half."""
    net = row.split(":")[1]
    size, images = plan.batch[net], _images(plan.pool)
    attack = step_jax.make_attack(plan.attack_steps)
    risk = {"nat": scores.SCORES["w_nat"](), "bdy": scores.SCORES["w_bdy"]()}
    mesh = sharding.make_mesh(1)
    score, feed = ScoringPass(attack, risk, size, mesh), Feed(Pool((images,)), mesh, 4)
    network, index, key = Frozen(_network(net, plan)), np.arange(plan.pool), KEY

    def run():
        found = score(network, feed, index, key)
        worst = found["nat"] + found["bdy"]
        label = jnp.asarray(images.label)
        half = take_top(worst, label, key, plan.pool, plan.pool // 2, "hard", True)
        return jax.block_until_ready(half)

    passes = 2 * plan.attack_steps + 2
    return _timed(row, f"{plan.pool} images", run, plan, passes * plan.pool)


def selection(row: str, plan: Plan) -> Found:
    """Half of a batch, chosen before the attack; against learning from all of it."""
    from tests.bench import selection as bench

    net = row.split(":")[1]
    data = random_batch(plan.batch[net])
    runs = {
        name: bench.runner(net, bench.SPECS[spec], *data, plan.dtype)
        for name, spec in (("ours", "before (start)"), ("all rows", "all"))
    }
    seconds = in_turn(runs, plan.rounds)
    forward = nominal.forward_flops(step_jax.make_model(net, "xla"), data[0].shape)
    passes = bench.passes(bench.SPECS["before (start)"], step_jax.NUM_STEPS, 3.0)
    taken = statistics.median(seconds["ours"])
    peers = {"all rows": ratios(seconds, "all rows", to="ours")}
    what = f"step of {len(data[0])}, half learnt"
    return Found(row, what, taken, passes * forward / _rate(plan), peers)


def coreset(row: str, plan: Plan) -> Found:
    """CRAIG on made-up gradients of 10 classes; against GradMatch and lazy greedy."""
    draw, classes = np.random.default_rng(0), 10
    label = np.arange(plan.points) % classes
    delta = draw.normal(size=(plan.points, classes)).astype(np.float32)
    embedding = np.maximum(draw.normal(size=(plan.points, 64)), 0).astype(np.float32)
    factors = Factors(jnp.asarray(delta[:, None]), jnp.asarray(embedding[:, None]))
    budget = plan.points // 2
    runs = {
        name: partial(_chosen, method, factors, label, budget)
        for name, method in (("ours", craig), ("gradmatch", gradmatch))
    }
    seconds = in_turn(runs, plan.rounds)
    taken = statistics.median(seconds["ours"])
    # delta delta^T and e e^T of every class, the least that distances take.
    size = plan.points // classes
    least = 2 * classes * size**2 * (classes + 65)
    peers = {"gradmatch": ratios(seconds, "gradmatch", to="ours")}
    what = f"half of {plan.points} points"
    note = "apricot, submodlib: tests.bench.coreset"
    rate = machine.rate("float32", plan.side)
    return Found(row, what, taken, least / rate, peers, note)


def evaluation(row: str, plan: Plan) -> Found:
    """AutoAttack on a fresh network; its own count of passes is the floor's."""
    net, count = row.split(":")[1], plan.aa_images
    image, label = _images(count).image / np.float32(255), _images(count).label
    logits_fn = _network(net, plan)
    # Labels as the network has them: every image is attacked.
    label = np.asarray(jnp.argmax(logits_fn(jnp.asarray(image)), -1), np.int32)
    threat, cost = make_threat("linf", 0.5 / 255), []

    def run():
        size = min(plan.batch[net], count)
        given = {"key": KEY, "version": plan.aa_version, "batch_size": size}
        found = autoattack(logits_fn, image, label, threat, **given)
        cost[:] = [found.cost.forwards + found.cost.backwards]

    run()
    found = _timed(row, f"{count} images, {plan.aa_version}", run, plan, cost[0], False)
    return found._replace(note="pyautoattack: tests.bench.autoattack_bench")


def certification(row: str, plan: Plan) -> Found:
    """Randomized smoothing, against bare forward passes in PyTorch."""
    net, size = row.split(":")[1], plan.batch[row.split(":")[1]]
    image = jnp.asarray(_images(plan.certify_images).image / np.float32(255))
    logits_fn, mesh = _network(net, plan), sharding.make_mesh(1)
    keys = rng.per_example(KEY, jnp.arange(len(image)))
    given = (SIGMA, N0, plan.n, ALPHA, size, mesh)
    run = lambda: certify_images(logits_fn, image, keys, *given)
    passes = len(image) * (N0 + plan.n)
    what = f"{len(image)} images, n {plan.n}"
    return _timed(row, what, run, plan, passes)


def sampling(row: str, plan: Plan) -> Found:
    """Images of a fresh denoiser by Heun's method."""
    model = build("denoiser", DENOISERS, plan.denoiser, num_classes=10)
    shape, count = (32, 32, 3), plan.samples
    label = jnp.arange(count, dtype=jnp.int32) % 10
    schedule, prediction = SCHEDULES["cosine"](), PREDICTIONS["v"]()
    times = uniform(schedule, TIMES)
    given = jnp.zeros((count, *shape)), jnp.zeros(count), label
    variables = jax.jit(model.init)(KEY, *(x[:1] for x in given))
    keys = rng.per_example(KEY, jnp.arange(count))

    @jax.jit
    def sample(variables, keys, label):
        denoise = denoiser(partial(model.apply, variables), schedule, prediction)
        return SAMPLERS["heun"](keys, denoise, schedule, label, shape, times)

    run = lambda: jax.block_until_ready(sample(variables, keys, label))
    least = EVALUATIONS["heun"](TIMES) * nominal.flops(model.apply, variables, *given)
    seconds = in_turn({"ours": run}, plan.rounds)["ours"]
    what = f"{count} images, {EVALUATIONS['heun'](TIMES)} evaluations"
    return Found(row, what, statistics.median(seconds), least / _rate(plan), {})


KINDS: dict[str, Callable[[str, Plan], Found]] = {
    "pgd_at": training,
    "trades": training,
    "nfgsm": training,
    "scoring": scoring,
    "selection": selection,
    "coreset": coreset,
    "autoattack": evaluation,
    "certify": certification,
    "sampling": sampling,
}
KEY = jax.random.key(0)


def _rate(plan: Plan) -> float:
    return machine.rate(plan.dtype, plan.side)


def _images(count: int) -> ImageSet:
    image, label = random_batch(count)
    return ImageSet(image, label, tuple("0123456789"), "random")


def _network(net: str, plan: Plan):
    model = step_jax.make_model(net, dtype=plan.dtype)
    variables = jax.jit(partial(init_variables, model, (32, 32, 3)))(KEY)
    return bind(model, variables, bn="running")


def _chosen(method, factors, label, budget):
    return jax.block_until_ready(method(factors, label, budget, KEY, mesh=None).index)


def _timed(row, what, run, plan, passes, repeat=True) -> Found:
    """`passes` forward passes of one image are the floor."""
    net = row.split(":")[1]
    if repeat:
        run()
    seconds = []
    for _ in range(plan.rounds if repeat else 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    model = step_jax.make_model(net, "xla")
    least = passes * nominal.forward_flops(model, (1, 32, 32, 3))
    return Found(row, what, statistics.median(seconds), least / _rate(plan), {})
