"""What a run directory holds, read once and never written."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.errors import UserError

Row = dict[str, Any]
Curve = dict[int, Row]  # step -> what was measured there


@dataclass(frozen=True)
class Selection:
    """One manifest of selections/: `info` is its json, arrays are read on demand."""

    name: str
    info: Row
    folder: Path

    @property
    def seed(self) -> int:
        """The seed of the run that selected; 0 where the manifest names none."""
        return int(self.info.get("seed") or 0)

    @property
    def round(self) -> int | None:
        """The round of reconstruction, where the method has rounds."""
        value = self.info.get("round")
        return None if value is None else int(value)

    def arrays(self) -> dict[str, np.ndarray]:
        """index, weight, score, kept, w_nat, w_bdy, label, generated, where saved."""
        return _load_npz(self.folder / f"{self.name}.npz")

    def images(self) -> dict[str, np.ndarray]:
        """Dropped and entered images with label and score; empty if not saved."""
        return _load_npz(self.folder / f"{self.name}.images.npz")

    def class_name(self, label: object) -> str:
        """The name of class `label`, or its number where names are not known."""
        return _class_name(self.info.get("class_names"), label)


@dataclass(frozen=True)
class Run:
    """A run directory; `metrics` maps each stage to its curve, in file order."""

    config: Row
    results: Row
    card: Row
    metrics: dict[str, Curve]
    selections: tuple[Selection, ...]
    folder: Path | None = None

    @property
    def rows(self) -> list[Row]:
        """One row a method, averaged over its seeds."""
        return list(self.results.get("rows") or [])

    @property
    def runs(self) -> list[Row]:
        """One row a method and seed."""
        return list(self.results.get("runs") or [])

    @property
    def runs_by_name(self) -> dict[str, list[Row]]:
        """The `runs` of every name, in file order."""
        found: dict[str, list[Row]] = {}
        for row in self.runs:
            found.setdefault(str(row.get("name", "")), []).append(row)
        return found

    @property
    def latest_selections(self) -> list[Selection]:
        """Those of the first seed, the last round first: the ones to show."""
        first = [s for s in self.selections if s.seed == self.selections[0].seed]
        return first[::-1]

    def class_name(self, label: object) -> str:
        """The name of class `label`, or its number where names are not known."""
        return _class_name(self.results.get("class_names"), label)

    def adversarial(self, row: Row) -> dict[str, np.ndarray]:
        """The attacked images of one of `runs`; empty if not saved.

        image u8[N,H,W,C], x_adv f32[N,H,W,C], label, prediction (of x_adv), clean,
        robust, fooled_by (-1 or an index into `components`), components.
        """
        name = row.get("folder")
        if self.folder is None or not isinstance(name, str) or ".." in name:
            return {}
        place = self.folder / "evaluation" / name.lstrip("/")
        return _load_npz(place / "adversarial.npz")

    @property
    def distilled(self) -> list[Path]:
        """The files of distilled sets, by name."""
        return sorted(self.folder.glob("distilled/*-set*.npz")) if self.folder else []

    @property
    def scores(self) -> list[Row]:
        """What distilled.json says of every way to distil; empty where there is
        none."""
        path = self.folder / "distilled.json" if self.folder else None
        return list(_load_json(path).get("scores") or []) if path else []

    @property
    def profile(self) -> Row:
        """The summary of a trace of training steps; empty where there is none."""
        return _load_json(self.folder / "profile.json") if self.folder else {}

    @property
    def checks(self) -> list[Row]:
        """The checks of the card: name, ok, value, note."""
        return list(self.card.get("checks") or [])


def read_run(workdir: Path) -> Run:
    """Read `workdir`; config.json and results.json are needed, the rest is optional."""
    for name in ("config.json", "results.json"):
        if not (workdir / name).is_file():
            raise UserError(
                f"no {name} in {workdir}: give the directory of a finished run"
            )
    return Run(
        config=_load_json(workdir / "config.json"),
        results=_load_json(workdir / "results.json"),
        card=_load_json(workdir / "card.json"),
        metrics=_load_metrics(workdir / "metrics.jsonl"),
        selections=_load_selections(workdir / "selections"),
        folder=workdir,
    )


def split_stage(stage: str) -> tuple[str, str]:
    """`seed0/pgd_at-hybrid` -> (`seed0`, `pgd_at-hybrid`), and all sets and chunks of
    `distilled/dc-ipc1-set0` are of the kind `distilled/dc-ipc1`; the seed may be
    empty."""
    match = re.match(r"(distilled/.+)-(set\d+)(-chunk\d+)?$", stage)
    if match:
        return match[2], match[1]
    match = re.match(r"(seed\d+)/(.+)", stage)
    return (match[1], match[2]) if match else ("", stage)


def _class_name(names: Any, label: object) -> str:
    key = str(label)
    if isinstance(names, dict):
        return str(names.get(key, key))
    if isinstance(names, list) and key.isdecimal() and int(key) < len(names):
        return str(names[int(key)])
    return key


def _load_json(path: Path) -> Row:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): run it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold one JSON object: run it again")
    return value


def _load_metrics(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in lines:
        try:
            point = json.loads(line)
            step = int(point["step"])
        except (ValueError, KeyError, TypeError):
            continue  # a killed run leaves a torn line, and writes that step again
        curve = curves.setdefault(str(point.get("stage", "")), {})
        curve.setdefault(step, {}).update(point)
    return {stage: dict(sorted(curve.items())) for stage, curve in curves.items()}


def _load_selections(folder: Path) -> tuple[Selection, ...]:
    found = [
        Selection(path.stem, _load_json(path), folder)
        for path in sorted(folder.glob("*.json"))
        if path.with_suffix(".npz").is_file()
    ]
    found.sort(key=lambda s: (s.seed, -1 if s.round is None else s.round, s.name))
    return tuple(found)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
