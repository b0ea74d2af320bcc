"""The rows of a comparison in the layout of a public leaderboard of fast training."""

from typing import Any

from jaxrobust.tasks.results import Row
from jaxrobust.tasks.setup import Setup
from jaxrobust.workdir import Workdir

FILE = "leaderboard.json"


def write_leaderboard(workdir: Workdir, setup: Setup, runs: list[Row]) -> None:
    """{data: {method: {"method", "dataset", "seeds": {seed: results}}}}.

    Accuracies are in percent and `total_training_time` in seconds, with all that
    choosing took. Ref: the FastAT benchmark's data file; its curves by epoch and its
    memory are left out.
    """
    data, attacks = setup.config["data"]["name"], setup.config["eval"]["attacks"]
    theirs = {"clean_acc": "clean_acc", "aa_acc": "autoattack_acc"}
    for name, spec in attacks.items():
        theirs[f"{name}_acc"] = f"{name}_{spec['num_steps']}_acc"
    table: dict[str, Any] = {}
    for row in runs:
        entry = table.setdefault(
            row["name"], {"method": row["name"], "dataset": data, "seeds": {}}
        )
        accuracies = {
            their: 100 * row[our] for our, their in theirs.items() if our in row
        }
        entry["seeds"][str(row["seed"])] = {
            "total_training_time": row["total_seconds"],
            **accuracies,
            "seed": row["seed"],
        }
    workdir.write(FILE, {data: table})
