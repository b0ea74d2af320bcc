"""The rows of a comparison in the layout of a public leaderboard of fast training."""

from typing import Any

from jaxrobust.tasks.results import Row
from jaxrobust.tasks.setup import Setup
from jaxrobust.workdir import Workdir

FILE = "leaderboard.json"
PERCENT = {
    "clean_acc": "clean_acc",
    "pgd_acc": "pgd_20_acc",
    "cw_acc": "cw_20_acc",
    "aa_acc": "autoattack_acc",
}
"""Our column -> theirs, in percent."""


def write_leaderboard(workdir: Workdir, setup: Setup, runs: list[Row]) -> None:
    """{data: {method: {"method", "dataset", "seeds": {seed: results}}}}.

    Accuracies are in percent and `total_training_time` in seconds, with all that
    choosing took. Ref: the FastAT benchmark's data file; its curves by epoch and its
    memory are left out.
    """
    data = setup.config["data"]["name"]
    table: dict[str, Any] = {}
    for row in runs:
        entry = table.setdefault(
            row["name"], {"method": row["name"], "dataset": data, "seeds": {}}
        )
        accuracies = {
            theirs: 100 * row[ours] for ours, theirs in PERCENT.items() if ours in row
        }
        entry["seeds"][str(row["seed"])] = {
            "total_training_time": row["total_seconds"],
            **accuracies,
            "seed": row["seed"],
        }
    workdir.write(FILE, {data: table})
