"""Checkpoints that survive kill -9: written whole or not at all, newest readable one
wins."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrobust.errors import UserError
from jaxrobust.types import TrainState

logger = logging.getLogger(__name__)
METRIC = "metric"


class Checkpointer:
    """Checkpoints of one stage: the two newest and, with `track_best`, the best one.

    Keeping "the best n" alone would delete the newest, and a resume would lose work.
    With `in_background`, `save` returns when the arrays are copied, and files are
    written while training goes on; without, when they are on disk. `read_only` is for
    looking at another run: nothing in it is changed.
    """

    def __init__(
        self,
        directory: Path,
        track_best: bool,
        in_background: bool = True,
        read_only: bool = False,
    ):
        managers = ocp.checkpoint_managers
        best = (lambda metrics: metrics[METRIC]) if track_best else None
        kept: list = [managers.LatestN(2)]
        if best is not None:
            kept.append(
                managers.BestN(
                    get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False
                )
            )
        self.directory = directory
        self._read_only = read_only
        with _quiet(read_only):
            options = ocp.CheckpointManagerOptions(
                best_fn=best,
                best_mode="max",
                preservation_policy=managers.AnyPreservationPolicy(kept),
                enable_async_checkpointing=in_background,
                read_only=read_only,
                create=not read_only,
            )
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(
        self, step: int, state: TrainState, host: dict[str, Any], metric: float | None
    ) -> None:
        """Write, or start to; `host` is JSON beside the arrays, `metric` the validation
        score."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
            ),
            metrics=None if metric is None else {METRIC: metric},
        )

    def restore_latest(self, like: TrainState) -> tuple[TrainState, dict] | None:
        """The newest readable checkpoint, or None where there is none at all.

        A damaged one is passed over with a warning and then removed: it would keep the
        steps up to its own from being saved again. Raises `UserError`, and removes
        nothing, if not one of them can be read into the shapes of `like`.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        reason = ""
        for place, step in enumerate(steps):
            try:
                found = self._restore(step, like)
            except Exception as error:
                reason = _first_line(error)
                logger.warning(
                    "checkpoint %s/%d cannot be read (%s): falling back",
                    self.directory,
                    step,
                    reason,
                )
                continue
            for damaged in steps[:place] if not self._read_only else ():
                self._manager.delete(damaged)
            return found
        if steps:
            raise UserError(
                f"no checkpoint in {self.directory} fits this model ({reason}): it is "
                "damaged or from another run; choose another --workdir or remove it"
            )
        return None

    def restore_best(self, like: TrainState) -> TrainState:
        """The checkpoint of the best validation score; the newest where none has one.

        Raises `UserError` if it cannot be read.
        """
        step = self._manager.best_step()
        step = self._manager.latest_step() if step is None else step
        assert step is not None
        try:
            return self._restore(step, like)[0]
        except Exception as error:
            raise UserError(
                f"the best checkpoint {self.directory}/{step} cannot be read "
                f"({_first_line(error)}): remove {self.directory} to train that stage "
                "again"
            ) from error

    def wait(self) -> None:
        """Return once everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and free the threads."""
        self._manager.close()

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore()
            ),
        )
        return found["state"], found["host"]


@contextlib.contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Orbax warns of being read-only where that is what was asked for."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR if wanted else level)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
