"""The one host loop that trains anything: classifiers and generators alike.

It owns the clock, checkpoints, the progress line and the watch for NaN; the arithmetic
is in a compiled program that runs a whole chunk of steps on the device.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from jaxrobust.checkpoint import Checkpointer
from jaxrobust.errors import UserError
from jaxrobust.loader import Feed
from jaxrobust.progress import Progress
from jaxrobust.samplers import Sampler
from jaxrobust.tasks.tracing import Tracer, host_work
from jaxrobust.train_step import Program, SizedProgram
from jaxrobust.types import TrainState
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)
Probe = Callable[[TrainState], Mapping[str, float]]


class Preempted(Exception):
    """The process was asked to stop, and everything is saved."""


class StopSignal:
    """Turns SIGTERM into a question that the loop asks between two chunks."""

    def __init__(self):
        self._asked = threading.Event()

    def install(self) -> None:
        """Catch SIGTERM from now on; only the main thread of a program may."""
        signal.signal(signal.SIGTERM, lambda *_: self._asked.set())

    def asked(self) -> bool:
        """Whether any process of the group was asked to stop; all of them agree."""
        asked = self._asked.is_set()
        if jax.process_count() == 1:
            return asked
        return bool(np.any(multihost_utils.process_allgather(np.array(asked))))


STOP = StopSignal()


@dataclass(frozen=True)
class Stage:
    """One training run inside a run directory: what to call it and how long it goes.

    `chunk_steps` steps run between two looks of the host; checkpoints and probes happen
    at chunk ends that reach a multiple of their period, 0 meaning only at the end
    (probes: never). `keep` says which checkpoint the stage yields, "last" or
    "best_val"; with `async_checkpoint` files are written beside the training.
    `work_per_step` is in forward passes of an image, for the estimate of
    the time to go.
    """

    name: str
    num_steps: int
    batch_size: int
    chunk_steps: int
    checkpoint_every_steps: int
    async_checkpoint: bool
    probe_every_steps: int
    keep: str
    work_per_step: float

    @property
    def work(self) -> float:
        """All the work of the stage."""
        return self.num_steps * self.work_per_step


@dataclass
class Fitted:
    """What a stage yields: the state to use, wall seconds of training and of
    compilation, the last probe, and the bytes that a step was predicted to need on each
    device."""

    state: TrainState
    seconds: float = 0.0
    compile_seconds: float = 0.0
    probe: dict[str, float] = field(default_factory=dict)
    memory_bytes: int = 0


@dataclass
class _Pending:
    """A chunk that the device may still be working on."""

    first_step: int
    count: int
    history: dict[str, Array]


def fit(
    stage: Stage,
    program: Program | SizedProgram,
    state: TrainState,
    base_key: Array,
    feed: Feed,
    sampler: Sampler,
    workdir: Workdir,
    progress: Progress,
    probe: Probe | None,
    tracer: Tracer | None,
) -> Fitted:
    """Train from `state`, or from the stage's newest checkpoint, to its last step, on
    what `sampler` hands out; `tracer` may take a profile of it.

    Raises `UserError` when the loss or a gradient is no longer finite, naming the step
    and the last good checkpoint, and `Preempted` after saving when SIGTERM came.
    """
    track_best = stage.keep == "best_val"
    folder = workdir.checkpoints / stage.name
    checkpoints = Checkpointer(folder, track_best, stage.async_checkpoint)
    try:
        run = _Run(stage, checkpoints, workdir, progress, probe)
        state, step = run.resume(state)
        while step < stage.num_steps:
            count = _chunk(stage, sampler, step)
            with host_work("batches"):
                index, weight = run.batches(sampler, state, step, count)
            with host_work("feed"):
                inputs = (state, base_key, *feed(index), index, weight)
            if tracer:
                ready = program.executable(*inputs)
                tracer.before_chunk(stage.name, ready, state, step, count)
            # Names the chunk in a profiler's timeline; free when nothing is traced.
            with jax.profiler.StepTraceAnnotation(stage.name, step_num=step):
                state, history = program(*inputs)
            run.dispatched(_Pending(step, count, history))
            run.memory_bytes = max(run.memory_bytes, program.memory_bytes)
            step += count
            if tracer:
                tracer.after_chunk(state, last=step == stage.num_steps)
            run.after_chunk(state, step)
        checkpoints.wait()
        if track_best:
            state = checkpoints.restore_best(state)
        compiled = program.take_compile_seconds()
        seconds = max(run.seconds() - compiled, 0.0)
        return Fitted(state, seconds, compiled, run.last_probe, run.memory_bytes)
    finally:
        if tracer:
            tracer.close()
        checkpoints.close()


class _Run:
    """The bookkeeping of one stage, between chunks."""

    def __init__(self, stage, checkpoints, workdir, progress, probe):
        self.stage, self.checkpoints = stage, checkpoints
        self.workdir, self.progress, self.probe = workdir, progress, probe
        self.last_probe: dict[str, float] = {}
        self.memory_bytes = 0
        self._pending: list[_Pending] = []
        self._before = self._aside = 0.0
        self._start = self._mark = time.monotonic()
        self._last_save = 0

    def resume(self, state: TrainState) -> tuple[TrainState, int]:
        """The newest checkpoint's state and step, or the given one and 0."""
        found = self.checkpoints.restore_latest(state)
        if found is None:
            return state, 0
        state, host = found
        self._before, self.last_probe = host["seconds"], host["probe"]
        self.memory_bytes = host.get("memory_bytes", 0)
        step = self._last_save = host["step"]
        self.progress.skip(step * self.stage.work_per_step)
        if step < self.stage.num_steps:
            logger.info("resuming %s at step %d", self.stage.name, step)
        return state, step

    def seconds(self) -> float:
        """Wall time of the stage over all processes that worked on it, without what the
        sampler took to choose and what probes took."""
        return self._before + time.monotonic() - self._start - self._aside

    def _step_aside(self, work: Callable[[], Any]) -> Any:
        """`work` beside the training, by a clock that stands still meanwhile."""
        start = time.monotonic()
        found = work()
        seconds = time.monotonic() - start
        self._aside += seconds
        self._mark += seconds
        return found

    def batches(self, sampler: Sampler, state: TrainState, step: int, count: int):
        """What the next `count` steps train on."""
        if not sampler.chooses(step):
            return sampler.batches(state, step, count)
        jax.block_until_ready(state)
        return self._step_aside(lambda: sampler.batches(state, step, count))

    def dispatched(self, chunk: _Pending) -> None:
        """Read the chunk before this one: by now the device is done with it."""
        self._pending.append(chunk)
        if len(self._pending) > 1:
            self._read(self._pending.pop(0))

    def after_chunk(self, state: TrainState, step: int) -> None:
        """Probe, save and stop where it is time to."""
        stage, end = self.stage, step == self.stage.num_steps
        if self.probe and stage.probe_every_steps:
            if end or _crossed(step, stage.chunk_steps, stage.probe_every_steps):
                self._flush()
                probe = self.probe
                with host_work("probe"):
                    self.last_probe = self._step_aside(lambda: dict(probe(state)))
                self.workdir.log_metrics(stage.name, step, self.last_probe)
        period = stage.checkpoint_every_steps
        stopping = STOP.asked()
        if end or stopping or _crossed(step, stage.chunk_steps, period):
            self._flush()
            self._save(state, step)
        if stopping:
            self.checkpoints.wait()
            raise Preempted(f"{stage.name} step {step}")

    def _save(self, state: TrainState, step: int) -> None:
        host: dict[str, Any] = {
            "step": step,
            "seconds": self.seconds(),
            "probe": self.last_probe,
            "memory_bytes": self.memory_bytes,
        }
        metric = None
        if self.stage.keep == "best_val":
            metric = self.last_probe.get("val_pgd_acc", 0.0)
        with host_work("checkpoint"):
            self.checkpoints.save(step, state, host, metric)
        self._last_save = step

    def _flush(self) -> None:
        while self._pending:
            self._read(self._pending.pop(0))

    def _read(self, chunk: _Pending) -> None:
        with host_work("wait for the device"):
            history = {name: np.asarray(v) for name, v in chunk.history.items()}
        self._check_finite(chunk, history)
        step = chunk.first_step + chunk.count
        now = time.monotonic()
        rate = chunk.count * self.stage.batch_size / max(now - self._mark, 1e-9)
        self._mark = now
        values = {name: float(np.mean(v)) for name, v in history.items()}
        self.workdir.log_metrics(
            self.stage.name, step, {**values, "images_per_second": rate}
        )
        shown = {k: v for k, v in values.items() if k in ("loss", "acc")}
        self.progress.update(
            chunk.count * self.stage.work_per_step,
            self.stage.name,
            f"{step}/{self.stage.num_steps}",
            {**shown, "images/s": rate},
        )

    def _check_finite(self, chunk: _Pending, history: dict[str, np.ndarray]) -> None:
        finite = np.isfinite(history["loss"]) & np.isfinite(history["grad_norm"])
        if not finite.all():
            step = chunk.first_step + int(np.argmin(finite))
            good = f"step {self._last_save}" if self._last_save else "none yet"
            raise UserError(
                f"{self.stage.name}: the loss or its gradient is not finite at step "
                f"{step} (last good checkpoint of {self.checkpoints.directory}: "
                f"{good}): lower optim.learning_rate or set optim.grad_clip"
            )


def _chunk(stage: Stage, sampler: Sampler, step: int) -> int:
    """How many steps may run before the host is needed."""
    end = min(step + stage.chunk_steps, stage.num_steps)
    stops = (at for at in range(step + 1, end) if sampler.chooses(at))
    return next(stops, end) - step


def _crossed(step: int, chunk: int, period: int) -> bool:
    """Whether the chunk that ends at `step` reached a multiple of `period`."""
    return bool(period) and step // period > (step - chunk) // period
