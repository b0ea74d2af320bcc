"""The suite of one network on disk: what a killed evaluation goes on from."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxrobust import sharding
from jaxrobust.evaluators.engine import Cost
from jaxrobust.evaluators.protocol import Ledger
from jaxrobust.files import write_npz

SECONDS_BETWEEN_SAVES = 5.0


@dataclass
class LedgerStore:
    """`ledger.npz` and the images `x_adv.npy` in one folder.

    Images are written first: a success that a kill kept out of `ledger.npz` is found
    again, the same, from the same keys.
    """

    folder: Path
    _last: float = field(default_factory=time.monotonic)

    def images(self, shape: tuple[int, ...]) -> np.ndarray:
        """f32[N,H,W,C] on disk, zero where nothing has been written yet."""
        if not sharding.is_lead():
            return np.zeros(shape, np.float32)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "x_adv.npy"
        mode = "r+" if path.exists() and self._path.exists() else "w+"
        return np.lib.format.open_memmap(path, mode, np.float32, shape)

    def load(self, x_adv: np.ndarray) -> Ledger | None:
        """Where an earlier process stood, or None."""
        if not self._path.exists():
            return None
        with np.load(self._path) as file:
            known = dict(file)
        stage, refused, *passes = map(int, known.pop("counts"))
        cost = Cost(*passes)
        return Ledger(**known, x_adv=x_adv, stage=stage, refused=refused, cost=cost)

    def save(self, ledger: Ledger, now: bool) -> None:
        """Write, at most every few seconds unless `now`."""
        if not now and time.monotonic() - self._last < SECONDS_BETWEEN_SAVES:
            return
        self._last = time.monotonic()
        if not sharding.is_lead():
            return
        if isinstance(ledger.x_adv, np.memmap):
            ledger.x_adv.flush()
        cost = ledger.cost
        passes = (cost.forwards, cost.backwards, cost.idle)
        counts = (ledger.stage, ledger.refused, *passes)
        arrays = {
            name: getattr(ledger, name)
            for name in ("fooled_by", "fooled_in", "others", "finished")
        }
        write_npz(self._path, {**arrays, "counts": np.array(counts, np.int64)})

    def remove(self) -> None:
        """Forget it all: the evaluation has been written elsewhere."""
        if sharding.is_lead():
            for name in ("ledger.npz", "x_adv.npy"):
                (self.folder / name).unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / "ledger.npz"
