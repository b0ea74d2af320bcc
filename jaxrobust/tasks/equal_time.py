"""How many steps each choice may take in the time of a random one."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.files import read_json
from jaxrobust.tasks.results import Row
from jaxrobust.workdir import Workdir

FILE = "equal_time.json"


def plan_steps(workdir: Workdir, runs: list[Row], chunk_steps: int) -> dict[str, int]:
    """{name of a row at equal steps: n}, n = (T - overhead) / rate in whole chunks, T
    being the time of the random choice of the same budget at equal steps; 0 where no
    time is left.

    `rate` is the median over rows of the time that a step of the same program took: a
    busy moment is not the method's, and a least time would favour the program that ran
    most often. What is spent once, on the ranking
    network and its scores, is overhead; what a choice spends while it trains counts by
    the step. Measured once for a run directory, so that a resumed run keeps its plan.
    """
    path = workdir.path / FILE
    if path.exists():
        return {name: entry["steps"] for name, entry in read_json(path).items()}
    equal = [row for row in runs if row["rule"] == "steps"]
    rates = _rates(equal)
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["name"] for row in equal):
        rows = [row for row in equal if row["name"] == name]
        reference = _reference(equal, rows[0])
        given = reference["steps"] * rates[reference["program"]]
        rate, overhead = rates[rows[0]["program"]], _overhead(rows)
        if not rows[0]["rounds_seconds"]:
            rate, overhead = rate + overhead / rows[0]["steps"], 0.0
        chunks = int((given - overhead) / rate / chunk_steps + 1e-9)
        steps = max(chunks, 0) * chunk_steps
        found[name] = {
            "steps": steps,
            "seconds": given,
            "overhead_seconds": overhead,
            "seconds_per_step": rate,
        }
    found = _agreed(found)
    workdir.write(FILE, found)
    return {name: entry["steps"] for name, entry in found.items()}


def _rates(rows: Iterable[Row]) -> dict[str, float]:
    """{program: median seconds of a step}."""
    found: dict[str, list[float]] = {}
    for row in rows:
        seconds = row["attack_seconds"] + row["train_seconds"]
        found.setdefault(row["program"], []).append(seconds / row["steps"])
    return {program: float(np.median(rates)) for program, rates in found.items()}


def _reference(rows: list[Row], row: Row) -> Row:
    """The random choice of the same budget; of any budget where that is everything."""
    chance = [r for r in rows if r["choice"] == "random"]
    same = [r for r in chance if r["budget"] == row["budget"]]
    return (same or chance)[0]


def _overhead(rows: list[Row]) -> float:
    parts = ("rounds_seconds", "score_seconds", "select_seconds")
    return float(np.mean([sum(row[part] for part in parts) for row in rows]))


def _agreed(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lead's step counts: every process has clocks of its own."""
    if jax.process_count() == 1:
        return found
    steps = np.array([entry["steps"] for entry in found.values()])
    agreed = multihost_utils.broadcast_one_to_all(steps)
    return {
        name: {**entry, "steps": int(count)}
        for (name, entry), count in zip(found.items(), agreed)
    }
