"""What was chosen, as files that others can use: NAME.npz and NAME.json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.files import write_json, write_npz
from jaxrobust.types import Subset


class Manifest(NamedTuple):
    """A ranking of candidates and what became of it.

    `columns` hold one row for each candidate, among them `index` int64[M] (pool
    positions), `weight` f32[M], `score` f32[M] and `kept` bool[M]; `kept` means trained
    on. `facts` say which data, method, seed, step and budget, in words and numbers.
    """

    columns: dict[str, np.ndarray]
    facts: dict[str, Any]

    @property
    def subset(self) -> Subset:
        """The kept rows as a `Subset`."""
        kept = self.columns["kept"]
        return Subset(self.columns["index"][kept], self.columns["weight"][kept])


def write_manifest(folder: Path, name: str, manifest: Manifest) -> None:
    """Write both files; the npz comes last, so that its presence means all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", manifest.facts)
    write_npz(folder / f"{name}.npz", manifest.columns)


def read_manifest(folder: Path, name: str) -> Manifest | None:
    """The manifest NAME, or None where it was not finished."""
    path = folder / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as stored:
        columns = dict(stored)
    return Manifest(columns, json.loads((folder / f"{name}.json").read_text()))
