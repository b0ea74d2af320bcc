"""The certificates of one network on disk, one line an image: what a killed run goes on
from."""

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust import sharding
from jaxrobust.errors import UserError
from jaxrobust.evaluators.certificate import Certificates
from jaxrobust.files import write_atomic

COLUMNS: tuple[str, ...] = ("idx", "label", "predict", "radius", "correct", "time") + (
    "top", "n0", "nA", "vote"
)  # fmt: skip
"""Those of the published code, in its order, and the counts behind them."""


class Table(NamedTuple):
    """The columns of the file but for the clock, all [N], in the order of `idx`."""

    idx: np.ndarray
    label: np.ndarray
    predict: np.ndarray
    radius: np.ndarray
    correct: np.ndarray
    top: np.ndarray
    n0: np.ndarray
    nA: np.ndarray
    vote: np.ndarray


class CertificateFile:
    """`certificates/<network>.tsv`; a line that a kill has torn is dropped.

    Radii are written so that they read back bit for bit. Raises `UserError` where the
    file holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        if sharding.is_lead():
            path.parent.mkdir(parents=True, exist_ok=True)
            known = path.read_bytes() if path.exists() else b""
            whole = known[: known.rfind(b"\n") + 1]
            if whole != known or not known:
                write_atomic(path, whole or _line(COLUMNS).encode())
        sharding.wait_for_all(str(path))

    def done(self, index: np.ndarray) -> np.ndarray:
        """bool[N]: which images `index` have their line; all processes agree."""
        found = np.isin(index, self.read().idx)
        if jax.process_count() > 1:
            found = multihost_utils.broadcast_one_to_all(found)
        return np.asarray(found)

    def append(
        self,
        index: np.ndarray,
        label: np.ndarray,
        found: Certificates,
        seconds: float,
    ) -> None:
        """Add the lines of images `index`, at `seconds` an image."""
        if not sharding.is_lead():
            return
        clock, lines = str(timedelta(seconds=seconds)), []
        for i, y, *rest in zip(index, label, *found):
            predict, radius, *counts = (x.item() for x in rest)
            right = int(predict == y)
            lines.append(_line([i, y, predict, repr(radius), right, clock, *counts]))
        with open(self.path, "a") as file:
            file.write("".join(lines))

    def read(self) -> Table:
        """Everything that has been written, by image."""
        sharding.wait_for_all(f"{self.path} read")
        header, *lines = self.path.read_text().splitlines()
        if header != "\t".join(COLUMNS):
            raise UserError(f"{self.path} has other columns: choose another --workdir")
        try:
            rows = sorted(map(_parse, lines))
        except ValueError as error:
            raise UserError(
                f"{self.path} is damaged ({error}): remove it and run again"
            ) from error
        kept = {row[0]: row for row in rows}
        by_column = list(zip(*kept.values())) or [()] * len(Table._fields)
        kinds = {"radius": np.float64, "correct": bool}
        return Table(
            *(
                np.array(values, kinds.get(name, np.int64))
                for name, values in zip(Table._fields, by_column)
            )
        )


def _line(values) -> str:
    return "\t".join(map(str, values)) + "\n"


def _parse(line: str) -> tuple:
    fields = dict(zip(COLUMNS, line.split("\t"), strict=True))
    return tuple(
        float(fields[name]) if name == "radius" else int(fields[name])
        for name in Table._fields
    )
