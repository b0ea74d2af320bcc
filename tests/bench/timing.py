"""Programs timed in turn: a machine drifts within minutes, neighbours see the same."""

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def random_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels u8[B,32,32,3] and labels i32[B]; speed does not depend on them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
    return image, rng.integers(0, 10, size).astype(np.int32)


def alternated(names: Iterable[str], number: int) -> list[str]:
    """The order of round `number`: from the first to the last, then back again."""
    order = list(names)
    return order if number % 2 == 0 else order[::-1]


def in_turn(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm: bool = False,
) -> dict[str, list[float]]:
    """{name: seconds of each round}; unless they are `warm`, every run is called once
    before, to compile."""
    for warm_up in () if warm else runs.values():
        warm_up()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in alternated(runs, number):
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], name: str, to: str) -> list[float]:
    """How much longer `name` took than `to`, round by round."""
    return [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]
