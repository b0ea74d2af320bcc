"""What a run claims, on what data, on which machine, and with which checks."""

import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from jaxrobust import data
from jaxrobust.evaluators.check import Check
from jaxrobust.metrics import CLAIM_SEEDS
from jaxrobust.tasks.setup import Config, Setup
from jaxrobust.threat import ThreatModel, format_eps
from jaxrobust.workdir import Workdir

PACKAGES = ("jaxrobust", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Premises(Protocol):
    """What a run starts from, as far as its card is concerned."""

    @property
    def config(self) -> Config:
        """With "seeds" and "data"."""
        ...

    @property
    def splits(self) -> data.Splits:
        """The images."""
        ...

    @property
    def threat(self) -> ThreatModel:
        """The ball."""
        ...


def make_card(
    setup: Premises, workdir: Workdir, started: float, checks: list[Check]
) -> dict[str, Any]:
    """The card as plain data."""
    splits = setup.splits
    return {
        "command": " ".join(["python -m jaxrobust.main", *sys.argv[1:]]),
        "config_sha256": workdir.config_sha256,
        "commit": _commit(),
        "seeds": list(setup.config["seeds"]),
        "threat": f"{setup.threat.norm}, eps {format_eps(setup.threat)}",
        "data": {
            "name": setup.config["data"]["name"],
            "provenance": splits.train.provenance,
            "sha256": splits.train.fingerprint(),
            "test_sha256": splits.test.fingerprint(),
            "train": len(splits.train),
            "val": len(splits.val),
            "test": len(splits.test),
        },
        "device": _device(),
        "versions": {"python": platform.python_version(), **_versions()},
        "wall_seconds": round(time.monotonic() - started, 1),
        "checks": [check._asdict() for check in checks],
    }


def accuracy_checks(rows: list[dict], setup: Setup) -> list[Check]:
    """Checks that every table of clean and attacked accuracies must pass."""
    eps = float(setup.threat.eps)
    # Not Python's max: that loses a NaN.
    farthest = float(np.max([row["max_distance"] for row in rows]))
    attacked = [f"{name}_acc" for name in setup.evaluations if name != "clean"]
    rises = [
        f"{row['name']} {key}"
        for row in rows
        for key in attacked
        if row[key] > row["clean_acc"]
    ]
    return [
        Check(
            "attacks stay in the ball",
            farthest <= float(setup.threat.reach),
            f"largest {setup.threat.norm} distance {farthest:.6f}, eps {eps:.6f}",
            "measured on every attacked test image",
        ),
        Check(
            "attacks do not help",
            not rises,
            ", ".join(rises) or "attacked accuracy <= clean accuracy in every row",
            "an attack that raises accuracy is broken",
        ),
    ]


def row_checks(rows: list[dict]) -> list[Check]:
    """The checks that single networks were put to, each with the network's name."""
    return [
        Check(f"{row['name']}, seed {row['seed']}: {name}", *rest)
        for row in rows
        for name, *rest in row.get("checks", ())
    ]


def seeds_check(setup: Setup) -> Check:
    """Differences are claimed from three seeds on."""
    count = len(setup.config["seeds"])
    note = "a difference between methods needs at least three"
    return Check("enough seeds", count >= CLAIM_SEEDS, f"{count}", note)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"{platform.machine()} CPU"
    return f"{len(devices)} x {kind}, {jax.process_count()} process(es)"


def _commit() -> str:
    """The commit of the source tree, with a mark where files were changed."""
    folder = Path(__file__).resolve().parent
    run = lambda *command: subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return run("rev-parse", "HEAD") + (
            " (with local changes)" if run("status", "--porcelain") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
