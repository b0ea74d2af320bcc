"""Choosing half of 5,000 points: CRAIG against apricot and submodlib, GradMatch against
NumPy OMP.

    pip install apricot-select submodlib-py
    [XLA_FLAGS=--xla_force_host_platform_device_count=2] \
        python -m tests.bench.coreset [--run RUN --network NAME] [--depth 64] \
        [--budget 2500] [--rounds 3] [--seed 0]

Last-layer gradients of 10 classes x 500 points with K = 10: those of the attacked
training images of a finished run of compare.py, or made-up ones. All sides get the same
factors in host memory and return positions and weights there, and all build what they
need of inner products themselves. Compilation is timed apart. Each round times all of
them in turn, in alternating order; the ratios are theirs / ours of the same round.
apricot 0.6.1 compiles its kernels anew for each class and each call, which is most of
its time: `apricot_warm` is the same with its kernels kept, `apricot` as it comes.
submodlib 0.0.3 is in C++; its answer leaves the weights to the caller.

`numpy_omp` is the matching pursuit of the GradMatch papers: the least squares problem
of the picks is built and solved anew in each step. `--cap` seconds end its first run
with the classes that are done by then, and its time is scaled up.
"""

import argparse
import statistics
import time
from functools import cache
from unittest import mock

import jax
import numpy as np

from jaxrobust import sharding
from jaxrobust.features import Factors
from jaxrobust.finished import open_run
from jaxrobust.loader import Feed, make_pool
from jaxrobust.selection import Frozen
from jaxrobust.selection.craig import craig
from jaxrobust.selection.gradmatch import gradmatch
from jaxrobust.state import bind_features
from jaxrobust.tasks.choices.gradients import GradientPass
from jaxrobust.tasks.networks import load_network
from jaxrobust.tasks.setup import build_setup
from tests.bench.timing import alternated, ratios

CLASSES, EACH = 10, 500
LABEL = np.repeat(np.arange(CLASSES), EACH)


def made_up(depth: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(delta f32[N,K], embedding f32[N,depth]) of a softmax over noisy class means."""
    draw = np.random.default_rng(seed)
    mean = draw.normal(size=(CLASSES, depth))
    embedding = np.maximum(mean[LABEL] + draw.normal(size=(len(LABEL), depth)), 0)
    weight = (draw.normal(size=mean.shape) + 0.6 * mean).T / np.sqrt(depth)
    p = np.exp(embedding @ weight)
    delta = p / p.sum(axis=1, keepdims=True) - np.eye(CLASSES)[LABEL]
    return delta.astype(np.float32), embedding.astype(np.float32)


def attacked(run: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of the 500 training images of each class of `run`, class by class, at
    its network `name`."""
    finished = open_run(run)
    setup = build_setup(finished.config)
    row = finished.find((name,), (0,))[0]
    network = load_network(finished, row, setup.splits, setup.mesh, "")
    features_fn = bind_features(network.model, network.variables)
    train = setup.splits.train
    feed = Feed(make_pool(train, None), setup.mesh, device_gb=4.0)
    look = GradientPass(setup, finished.config["comparison"]["method"])
    order = np.argsort(train.label, kind="stable")
    assert (train.label[order] == LABEL).all(), "not 500 images of each of 10 classes"
    key = sharding.replicate_key(jax.random.key(0), setup.mesh)
    factors, _ = look(Frozen(network.logits_fn, features_fn), feed, order, key)
    return np.asarray(factors.delta[:, 0]), np.asarray(factors.embedding[:, 0])


def explicit(delta: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """f32[n,K(D+1)], as the published code holds them."""
    rows = delta[:, :, None] * embedding[:, None]
    return np.concatenate([delta, rows.reshape(len(delta), -1)], axis=1)


def error(delta, embedding, index, weight) -> float:
    """Relative gradient error over all classes."""
    extended = np.concatenate([embedding, np.ones((len(delta), 1))], axis=1)
    goal = delta.T @ extended
    part = (delta[index] * np.asarray(weight)[:, None]).T @ extended[index]
    return float(np.linalg.norm(part - goal) / np.linalg.norm(goal))


def ours(method, delta, embedding, budget):
    """Positions and weights on the host; classes are laid over all devices."""
    factors = Factors(jax.numpy.asarray(delta[:, None]), embedding[:, None])
    mesh = sharding.make_mesh(0) if jax.device_count() > 1 else None
    picked = method(factors, LABEL, budget, jax.random.key(0), mesh=mesh)
    return np.asarray(picked.index), np.asarray(picked.weight), 1.0


def greedy(pick, delta, embedding, budget):
    """Facility location of each class, by `pick(similarities f64[n,n], count)`."""
    index, weight = [], []
    for k in range(CLASSES):
        rows = np.flatnonzero(LABEL == k)
        d, e = delta[rows], embedding[rows]
        gram = (d @ d.T) * (1 + e @ e.T)
        norms = np.diag(gram)
        distance = np.maximum(norms[:, None] + norms - 2 * gram, 0)
        alike = (distance.max() - distance).astype(np.float64)
        picks = pick(alike, budget // CLASSES)
        owner = alike[:, picks].argmax(axis=1)
        index += rows[picks].tolist()
        weight += np.bincount(owner, minlength=len(picks)).tolist()
    return np.array(index), np.array(weight), 1.0


def apricot(delta, embedding, budget):
    """apricot's lazy greedy."""
    from apricot import FacilityLocationSelection

    def pick(alike, count):
        lazy = FacilityLocationSelection(count, metric="precomputed", optimizer="lazy")
        return np.asarray(lazy.fit(alike).ranking)

    return greedy(pick, delta, embedding, budget)


def submodlib(delta, embedding, budget):
    """submodlib's lazy greedy."""
    from submodlib.functions.facilityLocation import FacilityLocationFunction

    def pick(alike, count):
        goal = FacilityLocationFunction(
            n=len(alike), mode="dense", sijs=alike, separate_rep=False
        )
        found = goal.maximize(
            budget=count,
            optimizer="LazyGreedy",
            stopIfZeroGain=False,
            stopIfNegativeGain=False,
            show_progress=False,
        )
        return np.array([place for place, _ in found])

    return greedy(pick, delta, embedding, budget)


def apricot_warm():
    """`apricot` with kernels that are compiled once and kept."""
    from apricot.functions import facilityLocation as module

    kept = {
        name: cache(getattr(module, name))
        for name in ("calculate_gains", "calculate_gains_sieve")
    }

    def run(delta, embedding, budget):
        with mock.patch.multiple(module, **kept):
            return apricot(delta, embedding, budget)

    return run


def numpy_omp(delta, embedding, budget, ridge=0.01, cap=float("inf")):
    """Matching pursuit with least squares from scratch in each step, class by class.

    Also says by how much to multiply its time where `cap` seconds ended it.
    """
    index, weight, start = [], [], time.perf_counter()
    for k in range(CLASSES):
        rows = np.flatnonzero(LABEL == k)
        picks, found = _omp(explicit(delta[rows], embedding[rows]), budget, ridge)
        index += rows[picks].tolist()
        weight += found.tolist()
        if time.perf_counter() - start > cap:
            break
    return np.array(index), np.array(weight), CLASSES / (k + 1)


def _omp(g, budget, ridge):
    goal = g.sum(axis=0)
    damping = ridge * np.mean(np.sum(g**2, axis=1))
    picks, left, weight = [], goal, np.zeros(0)
    for _ in range(budget // CLASSES):
        slope = g @ left
        slope[picks] = -np.inf
        picks.append(int(np.argmax(slope)))
        while True:
            a = g[picks]
            system = a @ a.T + damping * np.eye(len(picks))
            weight = np.linalg.lstsq(system, a @ goal, rcond=None)[0]
            if weight.min() >= 0:
                break
            del picks[int(np.argmin(weight))]
        left = goal - weight @ g[picks]
    return picks, weight


def timed(run):
    """(seconds, its answer)."""
    start = time.perf_counter()
    index, weight, scale = run()
    return (time.perf_counter() - start) * scale, (index, weight, scale)


def main() -> None:
    """Time all in turn and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="")
    parser.add_argument("--network", default="full / 100%")
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--budget", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap", type=float, default=60.0)
    parser.add_argument("--without", default="", help="peers to leave out, a,b")
    args = parser.parse_args()
    points = made_up(args.depth, args.seed)
    if args.run:
        points = attacked(args.run, args.network)
    print(f"5,000 points, D = {points[1].shape[1]}, {args.budget} to choose")
    data = (*points, args.budget)
    warm = apricot_warm()
    runs = {
        "craig": lambda: ours(craig, *data),
        "apricot_warm": lambda: warm(*data),
        "apricot": lambda: apricot(*data),
        "submodlib": lambda: submodlib(*data),
        "gradmatch": lambda: ours(gradmatch, *data),
        "numpy_omp": lambda: numpy_omp(*data, cap=args.cap),
    }
    runs = {
        name: run for name, run in runs.items() if name not in args.without.split(",")
    }
    for name in ("craig", "gradmatch"):
        print(f"{name}: first call, compilation included: {timed(runs[name])[0]:.2f} s")
    warm(*data[:2], 2 * CLASSES)
    report(data, runs, args.rounds)


def report(data, runs, rounds) -> None:
    """The rounds, then medians."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in alternated(runs, number):
            took, (index, weight, scale) = timed(runs[name])
            seconds[name].append(took)
            if number == 0:
                whole = f"{error(*data[:2], index, weight):.4f}"
                seen = whole if scale == 1 else f"only {len(index)} picks made"
                print(f"{name}: {took:.3f} s, gradient error {seen}", flush=True)
    pairs = [("craig", name) for name in ("apricot_warm", "apricot", "submodlib")]
    for mine, theirs in (*pairs, ("gradmatch", "numpy_omp")):
        if theirs not in seconds:
            continue
        found = ratios(seconds, theirs, to=mine)
        print(
            f"{mine} against {theirs}: {statistics.median(found):.1f}x "
            f"[{min(found):.1f}, {max(found):.1f}]"
        )


if __name__ == "__main__":
    main()
