"""Adversarial training steps, jaxrobust against four forms of PyTorch, in one process.

    python -m tests.bench.train_step                    # the table, about 10 minutes
    python -m tests.bench.train_step --rows pgd_at:resnet18 --peers channels_last
    python -m tests.bench.train_step --cpu_devices 2    # a device for each core
    python -m tests.bench.train_step --clock cpu        # on a shared machine

The machine may drift by a factor of two within minutes, so only the ratio of neighbours
means anything: a round times all in turn (order swapped every round) and yields one
ratio for each peer; the table shows the median ratio and its quartiles. `floor` is the
least arithmetic of the step at the rate of a matrix product of this machine, timed in
the same rounds, and `MFU` the share of that rate that the step reaches. `--clock cpu`
pins the process to one core (one thread each) and reads CPU seconds, which a busy
machine hardly moves.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.sharding import split_cpu
from tests.bench.timing import in_turn, ratios

BATCH = {"resnet18": 32, "resnet20": 64, "convnet": 64}
REQUIRED = {"resnet18": 0.65, "resnet20": 0.65, "convnet": 1.0}
"""Of the ratio to every form that makes no gradients in vain."""
ROWS = (
    "pgd_at:resnet18",
    "pgd_at:resnet20",
    "pgd_at:convnet",
    "trades:resnet20",
    "nfgsm:resnet20",
    "nfgsm:convnet",
)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SIDE = 1024


class Row(NamedTuple):
    """One line of the table: seconds of a step, and the ratios to each peer."""

    name: str
    batch: int
    seconds: float
    floor: float
    ratios: dict[str, list[float]]

    def missed(self, required: float) -> list[str]:
        """Peers that the row is too slow against."""
        return [
            f"{self.name} against {peer}"
            for peer, found in self.ratios.items()
            if statistics.median(found) < (1.0 if peer == "usual" else required)
        ]

    def line(self) -> str:
        """The row as text."""
        cells = [
            f"{peer} {statistics.median(r):.2f} [{{:.2f}}, {{:.2f}}]".format(
                *np.percentile(r, (25, 75))
            )
            for peer, r in self.ratios.items()
        ]
        return (
            f"{self.name:16s} B{self.batch:<3d} "
            f"{self.batch / self.seconds:7.1f} img/s  "
            f"floor {self.floor:.3f} s of {self.seconds:.3f} s  "
            f"MFU {self.floor / self.seconds:.0%}  " + "  ".join(cells)
        )


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels u8[B,32,32,3] and labels i32[B]; speed does not depend on them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
    return image, rng.integers(0, 10, size).astype(np.int32)


def matrix_product() -> Callable[[], object]:
    """A float32 product of two square matrices, of 2 SIDE^3 operations."""
    a = jnp.asarray(np.random.default_rng(0).normal(size=(SIDE, SIDE)), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    return lambda: jax.block_until_ready(product(a))


def compare(name: str, peers: list[str], rounds: int, chunk: int, clock: str) -> Row:
    """Time one row, such as "trades:resnet20"."""
    # Imported late: both count the cores that this process may use.
    from tests.bench import nominal, step_jax, step_torch

    method, net = name.split(":")
    data, threads = batch(BATCH[net]), len(os.sched_getaffinity(0))
    ours = step_jax.make_runner(
        net, *data, chunk, method=method, devices=jax.device_count()
    )
    theirs = {
        form: step_torch.make_runner(net, *data, chunk, threads, form, method)
        for form in peers
    }
    runs = {"ours": ours, **theirs, "product": matrix_product()}
    seconds = in_turn(runs, rounds, CLOCKS[clock])
    plain = step_jax.make_model(net, "xla")
    forward = nominal.forward_flops(plain, data[0].shape)
    least = step_jax.make_method(method).passes * forward
    rate = 2 * SIDE**3 / min(seconds["product"])
    taken = statistics.median(seconds["ours"]) / chunk
    found = {form: ratios(seconds, form, to="ours") for form in peers}
    return Row(name, len(data[0]), taken, least / rate, found)


def main() -> None:
    """Compare every row asked for; exits with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--peers", default="channels_last,eager,compiled,usual")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=1, help="steps in one timing")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--cpu_devices", type=int, default=0, help="0: one in all")
    args = parser.parse_args()
    split_cpu(args.cpu_devices)
    if args.clock == "cpu":
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    given, missed = (args.rounds, args.chunk, args.clock), []
    for name in args.rows.split(","):
        row = compare(name, args.peers.split(","), *given)
        print(row.line(), flush=True)
        missed += row.missed(REQUIRED[name.split(":")[1]])
    raise SystemExit(f"below the required ratio: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
