"""How far a run is: a bar on a terminal, plain lines elsewhere, and the time to go."""

import logging
import sys
import time

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from jaxrobust import sharding

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress over the planned work of a whole run.

    Work is counted in forward passes of the run's network on one image, so that stages
    of different cost (standard and adversarial training, sampling) add up.
    """

    def __init__(self, total_work: float):
        self._total = total_work
        self._done = 0.0
        self._skipped = 0.0
        self._start = self._last_line = time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty() and sharding.is_lead():
            form = "{percentage:3.0f}%|{bar:20}| {desc}"
            self._bar = tqdm(total=total_work, bar_format=form)
        # Log lines go above the bar instead of through it.
        self._redirect = logging_redirect_tqdm() if self._bar is not None else None
        if self._redirect is not None:
            self._redirect.__enter__()

    def skip(self, work: float) -> None:
        """Work that an earlier run of this directory has done already."""
        self._skipped += work
        self._advance(work)

    def update(self, work: float, stage: str, step: str, values: dict) -> None:
        """`work` more is done; `step` like "200/400" and `values` say what just
        happened."""
        self._advance(work)
        shown = "  ".join(f"{k} {_number(v)}" for k, v in values.items())
        text = f"{stage}  step {step}  {shown}  ETA {self.eta()}"
        if self._bar is not None:
            self._bar.set_description_str(text)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info("%3.0f%%  %s", 100 * self._done / self._total, text)

    def eta(self) -> str:
        """The time to go for the whole run, as minutes:seconds."""
        fresh = self._done - self._skipped
        if fresh <= 0:
            return "?"
        elapsed = time.monotonic() - self._start
        seconds = round(elapsed * max(self._total - self._done, 0) / fresh)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._redirect is not None:
            self._redirect.__exit__(None, None, None)
            self._redirect = None

    def _advance(self, work: float) -> None:
        self._done += work
        if self._bar is not None:
            self._bar.update(work)


def _number(value) -> str:
    return (
        f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"
    )
