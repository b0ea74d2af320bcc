"""The run directory: all that is needed to resume, compare or audit a run."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrobust import sharding
from jaxrobust.errors import UserError
from jaxrobust.files import write_atomic, write_json

logger = logging.getLogger(__name__)


class Workdir:
    """A run directory; only the lead process writes into it.

    Opening one that exists continues it. Raises `UserError` if it belongs to another
    configuration or is not a run directory at all.
    """

    def __init__(self, path: str, config: Mapping[str, Any]):
        self.path = Path(path)
        self.config = config
        self._check(json.loads(json.dumps(config)))
        self.checkpoints = self.path / "checkpoints"
        self.selections = self.path / "selections"
        if sharding.is_lead():
            self.path.mkdir(parents=True, exist_ok=True)
            # First of all: whatever else is here is then known to belong to a run, by
            # a restart after a kill and by the other processes.
            write_json(self.path / "config.json", config)
            self.checkpoints.mkdir(exist_ok=True)
            self._drop_half_line()
            _log_to(self.path / "log.txt")

    @property
    def config_sha256(self) -> str:
        """The fingerprint of the resolved configuration."""
        text = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def log_metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one JSON line; after a resume the later line of a step counts."""
        if sharding.is_lead():
            line = json.dumps({"stage": stage, "step": step, **values})
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(line + "\n")

    def read_results(self) -> dict[str, Any]:
        """The contents of results.json, {} before there is one."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file of the run directory, whole or not at all."""
        if sharding.is_lead():
            write_json(self.path / name, value)

    def _check(self, config: dict[str, Any]) -> None:
        known = self.path / "config.json"
        # Listed before looking for the file, which the lead may be writing right now.
        foreign = self._foreign_names()
        if known.exists():
            differing = _differences(_read_config(known), config)
            if differing:
                raise UserError(
                    f"{self.path} belongs to another configuration (differs in "
                    f"{', '.join(differing[:4])}): choose another --workdir"
                )
        elif foreign:
            raise UserError(
                f"{self.path} is not empty and not a run directory: choose another "
                "--workdir"
            )

    def _foreign_names(self) -> set[str]:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose another --workdir")
        found = {p.name for p in self.path.iterdir()} if self.path.exists() else set()
        return found - {"config.json", ".config.json.partial"}

    def _drop_half_line(self) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                write_atomic(path, data[: data.rfind(b"\n") + 1])


def stage_folder(name: str, seed: int) -> str:
    """The directory of the checkpoints of the row called "<method> / <kind>", or
    "<method> / <kind> / <architecture>"."""
    method, _, kind = name.partition(" / ")
    words = kind.replace(" / ", " ").replace(" ", "-").replace("%", "")
    return f"seed{seed}/{method}-{words}"


def _read_config(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read ({error}): choose another --workdir"
        ) from error


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the keys whose values differ."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [prefix.strip(".")]
    found = []
    for key in sorted({*old, *new}):
        missing = object()
        found += _differences(
            old.get(key, missing), new.get(key, missing), f"{prefix}{key}."
        )
    return found


def _log_to(path: Path) -> None:
    """Send the package's log lines to a file as well, once."""
    package = logging.getLogger("jaxrobust")
    for handler in list(package.handlers):
        if isinstance(handler, logging.FileHandler):
            package.removeHandler(handler)
            handler.close()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
