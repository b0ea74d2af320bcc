"""Choosing half of 5,000 points: CRAIG against apricot, GradMatch against NumPy OMP.

    pip install apricot-select
    python -m tests.bench.coreset [--depth 64] [--budget 2500] [--rounds 3] [--seed 0]

Made-up last-layer gradients of 10 classes x 500 points with K = 10. Both sides get the
same factors in host memory and return positions and weights there, and both build what
they need of inner products themselves. Compilation is timed apart. Each round times all
of them in turn, in alternating order; the ratios are theirs / ours of the same round.
apricot 0.6.1 compiles its kernels anew for each class and each call, which is most of
its time: `apricot_warm` is the same with its kernels kept, `apricot` as it comes.

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

from jaxrobust.features import Factors
from jaxrobust.selection.craig import craig
from jaxrobust.selection.gradmatch import gradmatch

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
    """Positions and weights on the host."""
    factors = Factors(jax.numpy.asarray(delta[:, None]), embedding[:, None])
    picked = method(factors, LABEL, budget, jax.random.key(0))
    return np.asarray(picked.index), np.asarray(picked.weight), 1.0


def apricot(delta, embedding, budget):
    """Lazy greedy facility location of each class on precomputed similarities."""
    from apricot import FacilityLocationSelection

    index, weight = [], []
    for k in range(CLASSES):
        rows = np.flatnonzero(LABEL == k)
        d, e = delta[rows], embedding[rows]
        gram = (d @ d.T) * (1 + e @ e.T)
        norms = np.diag(gram)
        distance = np.maximum(norms[:, None] + norms - 2 * gram, 0)
        alike = (distance.max() - distance).astype(np.float64)
        lazy = FacilityLocationSelection(
            budget // CLASSES, metric="precomputed", optimizer="lazy"
        )
        picks = np.asarray(lazy.fit(alike).ranking)
        owner = alike[:, picks].argmax(axis=1)
        index += rows[picks].tolist()
        weight += np.bincount(owner, minlength=len(picks)).tolist()
    return np.array(index), np.array(weight), 1.0


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
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--budget", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap", type=float, default=60.0)
    args = parser.parse_args()
    data = (*made_up(args.depth, args.seed), args.budget)
    warm = apricot_warm()
    runs = {
        "craig": lambda: ours(craig, *data),
        "apricot_warm": lambda: warm(*data),
        "apricot": lambda: apricot(*data),
        "gradmatch": lambda: ours(gradmatch, *data),
        "numpy_omp": lambda: numpy_omp(*data, cap=args.cap),
    }
    for name in ("craig", "gradmatch"):
        print(f"{name}: first call, compilation included: {timed(runs[name])[0]:.2f} s")
    warm(*data[:2], 2 * CLASSES)
    report(data, runs, args.rounds)


def report(data, runs, rounds) -> None:
    """The rounds, then medians."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            took, (index, weight, scale) = timed(runs[name])
            seconds[name].append(took)
            if number == 0:
                whole = f"{error(*data[:2], index, weight):.4f}"
                seen = whole if scale == 1 else f"only {len(index)} picks made"
                print(f"{name}: {took:.3f} s, gradient error {seen}", flush=True)
    pairs = ("craig", "apricot_warm"), ("craig", "apricot"), ("gradmatch", "numpy_omp")
    for mine, theirs in pairs:
        ratios = [b / a for a, b in zip(seconds[mine], seconds[theirs])]
        print(
            f"{mine} against {theirs}: {statistics.median(ratios):.1f}x "
            f"[{min(ratios):.1f}, {max(ratios):.1f}]"
        )


if __name__ == "__main__":
    main()
