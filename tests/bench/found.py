"""One measured row: its seconds, floor and ratios, and what it had to reach."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from tests.bench import machine
from tests.bench.plan import Plan, Row
from tests.bench.timing import CLOCKS, in_turn, ratios

DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16"}
HEAD = (
    "| row | what | images/s | seconds | floor | MFU | faster than | what holds it |\n"
    "|--|--|--:|--:|--:|--:|--|--|"
)


@dataclass(frozen=True)
class Found:
    """`seconds` of `what`, for so many `images`; `floor`, the least arithmetic of that
    at the rate of a matrix product timed beside it; how many times as long each peer
    takes, round by round, with the least that its median must be."""

    row: str
    what: str
    images: int
    seconds: float
    floor: float
    rate: float
    ratios: dict[str, list[float]]
    goals: dict[str, float]
    held: str
    notes: tuple[str, ...] = ()

    def missed(self) -> list[str]:
        """The peers that the row is too slow against."""
        return [
            f"{self.row} against {peer}: {found:.2f} of {self.goals[peer]:.2f}"
            for peer, found in self.medians().items()
            if found < self.goals[peer]
        ]

    def medians(self) -> dict[str, float]:
        """Of each peer's ratios."""
        return {peer: statistics.median(found) for peer, found in self.ratios.items()}

    def line(self) -> str:
        """The row as a row of a table."""
        cells = [self._cell(peer) for peer in self.ratios] + list(self.notes)
        return (
            f"| {self.row} | {self.what} | {self.images / self.seconds:.4g} "
            f"| {self.seconds:.3g} | {self.floor:.3g} "
            f"| {self.floor / self.seconds:.0%} | {', '.join(cells) or 'no peer'} "
            f"| {self.held} |"
        )

    def _cell(self, peer: str) -> str:
        middle = self.medians()[peer]
        low, high = np.percentile(self.ratios[peer], (25, 75))
        goal = self.goals[peer]
        fault = f" (missed: {goal:.2f})" if middle < goal else ""
        return f"{peer} {middle:.2f} [{low:.2f}, {high:.2f}]{fault}"

    def noted(self, note: str) -> "Found":
        """With a note more."""
        return replace(self, notes=(*self.notes, note))

    def facts(self) -> dict:
        """For a file."""
        return asdict(self) | {"medians": self.medians()}

    @classmethod
    def of(cls, facts: Mapping) -> "Found":
        """Back from a file."""
        own = {name: facts[name] for name in cls.__dataclass_fields__}
        return cls(**own | {"notes": tuple(facts["notes"])})


def where(facts: Mapping) -> str:
    """One line about the machine."""
    versions = facts["versions"]
    return (
        f"{facts['devices']} x {facts['device']}, {facts['processor']}, "
        f"{facts['cores']} cores, jax {versions['jax']}, torch "
        f"{versions['torch'] or 'missing'}, {facts['date']}, commit {facts['commit']}"
    )


def measure(
    row: Row,
    plan: Plan,
    what: str,
    images: int,
    operations: float,
    makers: Mapping[str, Callable[[], Callable[[], object]]],
    cold: tuple[str, ...] = (),
    chunk: int = 1,
) -> Found:
    """Time "ours" and its peers in turn.

    `makers` make the runs, each of `chunk` repetitions of `what`. A peer that cannot be
    made or run is a note. Every run is called once before, but for those in `cold`.
    """
    runs, notes = _made(makers, cold)
    product, of_product = machine.matrix_product(DTYPES[row.precision], plan.side)
    product()
    runs["product"] = product
    seconds = in_turn(runs, plan.rounds, CLOCKS[plan.clock], warm=True)
    rate = of_product / min(seconds["product"])
    peers = [name for name in runs if name not in ("ours", "product")]
    found = {name: ratios(seconds, name, to="ours") for name in peers}
    goals = {name: row.goal_against(name) for name in peers}
    taken = statistics.median(seconds["ours"]) / chunk
    given = (images, taken, operations / rate, rate, found, goals)
    return Found(row.name, what, *given, row.held, notes)


def _made(makers, cold) -> tuple[dict[str, Callable[[], object]], tuple[str, ...]]:
    """(runs, notes about those that cannot be)."""
    runs, notes = {}, {}
    for name, make in makers.items():
        try:
            run = make()
            if name not in cold:
                run()
        except ModuleNotFoundError as error:
            notes[f"no {error.name}"] = None
            continue
        except Exception as error:  # a peer that fails takes no other with it
            if name == "ours":
                raise
            words = str(error).strip().splitlines() or [""]
            notes[f"{name}: {type(error).__name__} {words[0][:80]}"] = None
            continue
        runs[name] = run
    return runs, tuple(notes)
