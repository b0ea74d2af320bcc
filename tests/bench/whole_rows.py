"""Rows that are a whole job: a coreset, an evaluation, certificates, samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import rng, sharding
from jaxrobust.evaluators import autoattack
from jaxrobust.evaluators.smoothing import certify
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.diffusion import PREDICTIONS, denoiser
from jaxrobust.generative.samplers import EVALUATIONS, SAMPLERS
from jaxrobust.generative.schedule import SCHEDULES
from jaxrobust.generative.times import uniform
from jaxrobust.registry import build
from jaxrobust.selection.craig import craig
from jaxrobust.selection.gradmatch import gradmatch
from jaxrobust.threat import make_threat
from tests.bench import coreset as choosing
from tests.bench import nominal
from tests.bench.found import Found, measure
from tests.bench.plan import Plan, Row
from tests.bench.rows import KEY, SHAPE, forward_of, fresh, images_of

SIGMA, N0, ALPHA, NOISE_BATCH, TIMES, DEPTH = 0.25, 100, 0.001, 1000, 18, 64


def coreset(row: Row, plan: Plan) -> Found:
    """Half of 5,000 made-up last-layer gradients of 10 classes."""
    count = len(choosing.LABEL)
    data = (*choosing.made_up(DEPTH, 0), count // 2)
    method = {"craig": craig, "gradmatch": gradmatch}[row.kind]
    makers = {
        "ours": lambda: partial(choosing.ours, method, *data),
        "apricot": lambda: partial(choosing.apricot_warm(), *data),
        "submodlib": lambda: partial(choosing.submodlib, *data),
        "numpy": lambda: partial(choosing.numpy_omp, *data),
    }
    makers = {name: makers[name] for name in ("ours", *row.peers)}
    # The products that distances take: delta delta^T and e e^T of every class.
    products = 2 * choosing.CLASSES * choosing.EACH**2 * (choosing.CLASSES + DEPTH + 1)
    what = f"half of {count:,} points"
    if row.kind == "gradmatch":
        plan = plan.once()
    return measure(row, plan, what, count, products, makers, cold=("numpy",))


def evaluation(row: Row, plan: Plan) -> Found:
    """AutoAttack on a fresh network, with the labels that it gives: every image is
    attacked. Its own count of passes is the floor's."""
    count, threat = plan.aa_images, make_threat("linf", plan.aa_eps)
    model, variables, logits_fn = fresh(row)
    image = images_of(count).image / np.float32(255)
    label = np.asarray(jnp.argmax(logits_fn(jnp.asarray(image)), -1), np.int32)
    size, robust = min(plan.batch[row.net], count), {}
    given = {"key": KEY, "version": plan.aa_version, "batch_size": size}

    def run():
        mesh = sharding.make_mesh(0)
        found = autoattack(logits_fn, image, label, threat, mesh=mesh, **given)
        robust["ours"] = int(found.robust.sum())
        robust["passes"] = found.cost.forwards + found.cost.backwards

    def theirs():
        from tests.bench import peers

        net = peers.torch_twin(model, variables)
        attack = (net, image, label, threat.norm, plan.aa_eps, size)

        def run_theirs():
            robust["theirs"] = int(peers.autoattack(*attack)[1].sum())

        return run_theirs

    makers = {"ours": lambda: run} | {peer: theirs for peer in row.peers}
    run()
    least = robust["passes"] * forward_of(row.net, 1)
    once = plan.once()
    what = f"{plan.aa_version}, {count} images"
    found = measure(row, once, what, count, least, makers, cold=("ours", *row.peers))
    return found.noted(f"{robust['ours']} robust, theirs {robust.get('theirs', '?')}")


def certification(row: Row, plan: Plan) -> Found:
    """Certificates by randomized smoothing."""
    image = images_of(plan.certify_images).image / np.float32(255)
    model, variables, logits_fn = fresh(row)
    keys = rng.per_example(KEY, jnp.arange(len(image)))

    def ours():
        mesh = sharding.make_mesh(0)
        given = (SIGMA, N0, plan.n, ALPHA, NOISE_BATCH, mesh)
        return lambda: certify(logits_fn, image, keys, *given)

    def theirs():
        from tests.bench import peers

        net = peers.torch_twin(model, variables)
        return lambda: peers.certify(net, image, SIGMA, N0, plan.n, 10, NOISE_BATCH)

    makers = {"ours": ours} | {peer: theirs for peer in row.peers}
    least = len(image) * (N0 + plan.n) * forward_of(row.net, 1)
    what = f"{len(image)} images, n {plan.n:,}"
    return measure(row, plan, what, len(image), least, makers)


def sampling(row: Row, plan: Plan) -> Found:
    """Images of a fresh denoiser by Heun's method."""
    model = build("denoiser", DENOISERS, plan.denoiser, num_classes=10)
    count, mesh = plan.samples, sharding.make_mesh(0)
    label = jnp.arange(count, dtype=jnp.int32) % 10
    schedule, prediction = SCHEDULES["cosine"](), PREDICTIONS["v"]()
    times = uniform(schedule, TIMES)
    given = jnp.zeros((count, *SHAPE)), jnp.zeros(count), label

    @jax.jit
    def sample(variables, keys, label):
        keys, label = sharding.split_batch((keys, label), mesh)
        denoise = denoiser(partial(model.apply, variables), schedule, prediction)
        return SAMPLERS["heun"](keys, denoise, schedule, label, SHAPE, times)

    def ours():
        variables = jax.jit(model.init)(KEY, *(x[:1] for x in given))
        variables, keys, labels = jax.device_put(
            (variables, rng.per_example(KEY, jnp.arange(count)), label),
            sharding.replicated(mesh),
        )
        return lambda: jax.block_until_ready(sample(variables, keys, labels))

    shapes = jax.eval_shape(model.init, KEY, *given)
    evaluations = EVALUATIONS["heun"](TIMES)
    least = evaluations * nominal.flops(model.apply, shapes, *given)
    what = f"{count} images, {evaluations} evaluations"
    return measure(row, plan, what, count, least, {"ours": ours})
