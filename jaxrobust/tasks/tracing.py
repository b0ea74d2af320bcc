"""A trace of a few training steps, taken while the run goes on, and what it says."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax

from jaxrobust import profiling, sharding
from jaxrobust.errors import UserError
from jaxrobust.types import TrainState
from jaxrobust.workdir import Workdir

logger = logging.getLogger(__name__)
FOLDER, SUMMARY = "profile", "profile.json"
NAMES_IN_KEY = "jax_compilation_cache_include_metadata_in_key"


def host_work(name: str):
    """Names what the host does meanwhile; free when nothing is traced."""
    return jax.profiler.TraceAnnotation(f"{profiling.HOST}{name}")


@dataclass
class _Traced:
    stage: str
    executable: Any
    first_step: int
    end: int = 0


class Tracer:
    """Traces `num_steps` training steps from `start_step` on into `<workdir>/profile/`:
    whole chunks of the first stage that has such steps. 0 steps: never.

    No compilation is traced: a trace begins at a chunk whose program is there, and ends
    before another program runs. A run directory that has a summary gets no other.
    """

    def __init__(self, workdir: Workdir, start_step: int, num_steps: int):
        self._workdir, self._start, self._count = workdir, start_step, num_steps
        self._wanted = num_steps > 0 and sharding.is_lead()
        self._open: ExitStack | None = None
        self._traced: _Traced | None = None
        self._key_had_names = _key_has_names()

    def before_chunk(
        self, stage: str, executable: Any, state: TrainState, step: int, count: int
    ) -> None:
        """The chunk of `count` steps from `step` on is about to run, as `executable`,
        or is to be compiled where that is None."""
        if self._traced and self._open and executable is not self._traced.executable:
            self._stop(state)
        if self._wanted and (self._workdir.path / SUMMARY).exists():
            self._wanted = False
        if self._wanted and executable is None:
            _let_key_have_names(True)
        if self._wanted and executable is not None and step >= self._start:
            self._wanted = False
            self._traced = _Traced(stage, executable, step)
            jax.block_until_ready(state)
            self._begin()
        if self._traced and self._open:
            self._traced.end = step + count

    def after_chunk(self, state: TrainState, last: bool) -> None:
        """The chunk was handed to the device; the stage ends with it if `last`."""
        _let_key_have_names(self._key_had_names)
        if self._traced and self._open:
            traced = self._traced
            if last or traced.end - traced.first_step >= self._count:
                self._stop(state)

    def close(self) -> None:
        """Drop a trace that is still being taken: something went wrong."""
        _let_key_have_names(self._key_had_names)
        if self._open:
            self._open.close()
            self._open = self._traced = None

    def report(self, flops_per_step: Callable[[], float]) -> None:
        """Write the summary of a trace that has been taken since; `flops_per_step` of
        all devices, 0 where they are not known."""
        traced, self._traced = self._traced, None
        if traced is None:
            if self._wanted:
                logger.warning(
                    "profile: no step traced yet: steps from %d on, after the first "
                    "chunk, which compiles", self._start,
                )  # fmt: skip
            return
        folder = self._workdir.path / FOLDER
        logger.info(
            "profile: traced steps %d to %d of %s (asked: %d from %d on; whole chunks "
            "that compile nothing) into %s",
            traced.first_step, traced.end, traced.stage, self._count, self._start,
            folder,
        )  # fmt: skip
        if not hasattr(jax.profiler, "ProfileData"):
            logger.warning("profile: no summary: this version of jax cannot read it")
            return
        hlo = traced.executable.as_text()
        try:
            trace = profiling.read_trace(folder, profiling.read_module(hlo))
        except UserError as error:  # no reason to end the run
            logger.warning("profile: no summary: %s", error)
            return
        found = profiling.summarise(trace, profiling.read_program(hlo))
        steps = traced.end - traced.first_step
        speed = flops_per_step() * steps / found["seconds"]
        self._workdir.write(SUMMARY, {**_facts(traced), **_utilisation(speed), **found})

    def _begin(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        stack = ExitStack()
        folder = str(self._workdir.path / FOLDER)
        stack.enter_context(jax.profiler.trace(folder, profiler_options=options))
        stack.enter_context(jax.profiler.TraceAnnotation(profiling.WINDOW))
        self._open = stack

    def _stop(self, state: TrainState) -> None:
        jax.block_until_ready(state)
        if self._open:
            self._open.close()
            self._open = None


def _key_has_names() -> bool:
    return getattr(jax.config, NAMES_IN_KEY)


def _let_key_have_names(wanted: bool) -> None:
    """Whether the compile cache tells programs apart by the names of their operations.

    Without them it may hand out one that older code has compiled, with the names of
    then, and a trace would put its time under "other".
    """
    jax.config.update(NAMES_IN_KEY, wanted)


def _facts(traced: _Traced) -> dict[str, Any]:
    devices = jax.devices()
    return {
        "stage": traced.stage,
        "first_step": traced.first_step,
        "num_steps": traced.end - traced.first_step,
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def _utilisation(flops_per_second: float) -> dict[str, float]:
    """The speed of a device, and its share of the peak (MFU) where that is known."""
    devices = jax.devices()
    speed = flops_per_second / len(devices)
    peak = profiling.peak_flops(devices[0].device_kind)
    found = {"flops_per_second": speed} if speed else {}
    return {**found, "mfu": speed / peak} if speed and peak else found
