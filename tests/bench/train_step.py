"""Adversarial training step, jaxrobust against PyTorch, alternated in one process.

    python -m tests.bench.train_step [--models resnet18,resnet20,convnet] [--rounds 12]
    python -m tests.bench.train_step --clock cpu     # on a machine that others use too

The machine may drift by a factor of two within minutes, so only the ratio of neighbours
means anything: a round times both in turn (order swapped every round) and yields one
ratio; the table shows the median ratio and its quartiles. `--clock cpu` pins the
process to one core (one thread each) and reads CPU seconds, which a busy machine hardly
moves.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

BATCH = {"resnet18": 32, "resnet20": 64, "convnet": 64}
REQUIRED = {"resnet18": 0.65, "resnet20": 0.65, "convnet": 1.0}


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels u8[B,32,32,3] and labels i32[B]; speed does not depend on them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
    return image, rng.integers(0, 10, size).astype(np.int32)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(run: Callable[[], float], clock: Callable[[], float]) -> float:
    """What one call takes."""
    start = clock()
    run()
    return clock() - start


def alternate(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    rounds: int,
    clock: Callable[[], float],
) -> tuple[list[float], list[float]]:
    """Times of both, taken in turn: A B, B A, A B, ..."""
    pairs = []
    for i in range(rounds):
        first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        pair = (seconds(first, clock), seconds(second, clock))
        pairs.append(pair if i % 2 == 0 else pair[::-1])
    a, b = zip(*pairs)
    return list(a), list(b)


def compare(name: str, rounds: int, chunk: int, clock: str) -> float:
    """Prints one row and returns the median speed ratio jaxrobust / PyTorch."""
    # Imported late: both count the cores that this process may use.
    from tests.bench import step_jax, step_torch

    data = batch(BATCH[name])
    ours = step_jax.make_runner(name, *data, chunk)
    threads = len(os.sched_getaffinity(0))
    theirs = step_torch.make_runner(name, *data, chunk, threads)
    for warm_up in (ours, theirs):
        warm_up()
    a, b = alternate(ours, theirs, rounds, CLOCKS[clock])
    ratios = sorted(y / x for x, y in zip(a, b))
    median = statistics.median(ratios)
    low, high = np.percentile(ratios, (25, 75))
    speed = [BATCH[name] * chunk / statistics.median(t) for t in (a, b)]
    verdict = "ok" if median >= REQUIRED[name] else "MISSED"
    print(
        f"{name:9s} B{BATCH[name]:<3d} jaxrobust {speed[0]:6.1f} img/s  "
        f"torch {speed[1]:6.1f} img/s  ratio {median:.2f} "
        f"[{low:.2f}, {high:.2f}]  best/best {min(b) / min(a):.2f}  "
        f"required {REQUIRED[name]:.2f} {verdict}",
        flush=True,
    )
    return median


def main() -> None:
    """Compare every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(BATCH))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--chunk", type=int, default=2, help="steps in one timing")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    if args.clock == "cpu":
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    missed = [
        name
        for name in args.models.split(",")
        if compare(name, args.rounds, args.chunk, args.clock) < REQUIRED[name]
    ]
    raise SystemExit(f"below the required ratio: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
