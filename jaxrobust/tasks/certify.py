"""Certify networks by randomized smoothing: train them for it first, or take those of
an existing run."""

import time

import numpy as np

from jaxrobust import registry
from jaxrobust.evaluators.certificate import linf_radius
from jaxrobust.evaluators.check import Check
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.tasks.card import Premises, row_checks, seeds_check
from jaxrobust.tasks.finish import conclude
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.networks import open_source
from jaxrobust.tasks.results import Results, Row, verdict
from jaxrobust.tasks.rows import fitted_row
from jaxrobust.tasks.setup import Config, Method, build_setup
from jaxrobust.tasks.smoother import Smoother
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.types import Subset
from jaxrobust.workdir import Workdir

QUESTION = "On how many test images is the answer certain not to change within a ball?"
KIND = "original"
NO_SUGGESTION = {"norm": "", "eps": -1.0}


def certify(config: Config, path: str) -> None:
    """The task: the networks of `config.checkpoint`, or where it is empty those that
    `config.compare` trains, for every seed."""
    run = _existing if config["checkpoint"] else _trained
    run(config, path, time.monotonic())


def _existing(config: Config, path: str, started: float) -> None:
    source = open_source(_as_source(config), NO_SUGGESTION)
    splits = source.splits
    smoother = Smoother(config["certify"], splits.test, source.threat, source.mesh)
    workdir = Workdir(path, config)
    progress = Progress(len(source.names) * smoother.work)
    results = _results(config, workdir, splits)
    for name, seed in source.names:
        if results.find(name, seed) is not None:
            progress.skip(smoother.work)

        def compute(name=name, seed=seed):
            network = source.load(name, seed).logits_fn
            return smoother.examine(name, seed, network, workdir, progress)

        results.row(name, seed, compute)
    _conclude(source, workdir, progress, results, smoother, [], [], started)


def _as_source(config: Config) -> Config:
    """What `open_source` reads."""
    given = ("checkpoint", "networks", "seeds", "num_devices", "dtype", "threat")
    return {
        **{key: config[key] for key in (*given, "preprocessing")},
        "data": config["images"],
        "batch_size": config["certify"]["noise_batch"],
    }


def _trained(config: Config, path: str, started: float) -> None:
    setup = build_setup(config)
    chosen = [
        registry.lookup("method", setup.methods, name) for name in config["compare"]
    ]
    pool = make_pool(setup.splits.train, None)
    steps = resolve_steps(config["train"], len(pool))
    smoother = Smoother(config["certify"], setup.splits.test, setup.threat, setup.mesh)
    workdir = Workdir(path, config)
    a_step = config["train"]["batch_size"] * sum(m.gradients for m in chosen)
    networks = len(config["seeds"]) * len(chosen)
    training = len(config["seeds"]) * steps * a_step
    progress = Progress(training + networks * smoother.work)
    trainer = Trainer(setup, pool, workdir, progress)
    results = _results(config, workdir, setup.splits)
    for seed in config["seeds"]:
        for method in chosen:
            _row(results, trainer, smoother, method, seed, steps)
    names = [f"{method.name} / {KIND}" for method in chosen]
    checks = [seeds_check(setup), _noise_check(config, chosen)]
    _conclude(setup, workdir, progress, results, smoother, names, checks, started)


def _row(
    results: Results,
    trainer: Trainer,
    smoother: Smoother,
    method: Method,
    seed: int,
    steps: int,
) -> None:
    """Train, certify, keep; either goes on where a killed run stood."""
    name = f"{method.name} / {KIND}"
    everything = Subset.uniform(np.arange(len(trainer.pool)))
    fit = lambda stage: trainer.train(stage, method, everything, seed, steps)

    def facts(fitted: Fitted) -> Row:
        network = trainer.logits_fn(fitted.state)
        return {
            **smoother.examine(name, seed, network, trainer.workdir, trainer.progress),
            "train_images": len(trainer.pool),
            "baseline": method.objective.inner is None,
        }

    fitted_row(results, trainer, method, KIND, seed, steps, fit, facts, smoother.work)


def _results(config: Config, workdir: Workdir, splits) -> Results:
    names = splits.test.class_names
    return Results(workdir, config["title"], QUESTION, class_names=names)


def _noise_check(config: Config, chosen: list[Method]) -> Check:
    """That what was trained on noise is certified with the same noise."""
    sigma = config["certify"]["sigma"]
    attacks = {m.name: config["methods"][m.name]["attack"] for m in chosen}
    trained = {n: a["sigma"] for n, a in attacks.items() if a["name"] == "gaussian"}
    other = {name: value for name, value in trained.items() if value != sigma}
    return Check(
        "trained and certified with the same noise",
        not other,
        f"sigma {sigma:g}, trained on " + (str(trained) if trained else "none"),
        "a network is certified best at the noise that it was trained on",
    )


def _conclude(
    premises: Premises,
    workdir: Workdir,
    progress: Progress,
    results: Results,
    smoother: Smoother,
    names: list[str],
    checks: list[Check],
    started: float,
) -> None:
    checks += row_checks(results.runs)
    answer = _answer(results, smoother, names)
    conclude(premises, workdir, progress, results, answer, checks, started)


def _answer(results: Results, smoother: Smoother, names: list[str]) -> str:
    """The headline of every network, and the methods against the first."""
    radius, size = smoother.threat_radius, smoother.test.image[0].size
    within = f"l2 {radius:.4g} (linf {linf_radius(radius, size):.4g})"
    lines = []
    for row in results.mean_rows():
        lines.append(
            f"{row['name']}: {row['certified_acc']:.1%} certified within {within}, "
            f"average radius {row['radius']:.3f}, {row['abstained']:.1%} abstained, "
            f"{row['smoothed_acc']:.1%} right, {row['clean_acc']:.1%} without noise."
        )
    for name in names[1:]:
        gap = verdict(results, name, names[0], "certified_acc")
        lines.append(f"{name} - {names[0]}, certified accuracy: {gap}.")
    return " ".join(lines)
