"""After the first seed, and the first round of it, everything is compiled: no later one
compiles anything, down to the operations outside of all programs.

JAX logs every program it compiles, those that it finds in its cache on disk as well.
"""

import logging
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.progress import Progress
from tests.runs import run
from tests.tasks.distill_ways_test import distiller_of, job_of

COMPILED = "Finished XLA compilation"


class Diary(logging.Handler):
    """What JAX and the run say, in order."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record):
        """Keep the line."""
        self.lines.append(record.getMessage())

    def compiled(self, first=0, end=None):
        """Lines about a compilation, of all or of a part."""
        return [line for line in self.lines[first:end] if line.startswith(COMPILED)]

    def last(self, text):
        """Where `text` was said last."""
        return max(i for i, line in enumerate(self.lines) if text in line)


@contextmanager
def diary():
    """All that is logged meanwhile, JAX's compilations included."""
    handler = Diary()
    loggers = [logging.getLogger(name) for name in ("jax", "jaxrobust")]
    propagated = loggers[0].propagate
    try:
        loggers[0].propagate = False
        for logger in loggers:
            logger.addHandler(handler)
        with jax.log_compiles():
            yield handler
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        loggers[0].propagate = propagated


def test_the_diary_sees_every_new_shape_once():
    double = jax.jit(lambda x: 2 * x)
    rows = [jnp.asarray(np.zeros(size, np.float32)) for size in (3, 3, 4)]
    with diary() as seen:
        counts = [(double(x), len(seen.compiled()))[1] for x in rows]
    assert counts == [1, 1, 2]


SEEDS = (", seed 0: ", ", seed 1: ")
# The rounds choose out of pools whose sizes differ.
ROUNDS = ("seed0-round1: ", "seed0-round2: ")


@pytest.mark.parametrize(
    "recipe, repeated, trained",
    [
        ("hybrid", [SEEDS, ROUNDS], 3),
        ("data_selection", [SEEDS], 4),
        ("coreset", [SEEDS], 1),
        (
            "guard",
            [SEEDS],
            5,
        ),  # two teachers, students by two kinds of label, one pooled
    ],
)
def test_a_second_seed_or_round_compiles_nothing(recipe, repeated, trained, tmp_path):
    # What other tests of this process compiled would not be seen, here or later.
    jax.clear_caches()
    with diary() as seen:
        given = (f"--config=configs/{recipe}.py:smoke", "--config.seeds=(0,1)")
        # The networks of the second seed learn from a set of their own.
        given += ("--config.distill.sets=2",) if recipe == "guard" else ()
        run(tmp_path / "run", *given)
    assert len(seen.compiled()) > 10, "nothing was seen to compile"
    # One for each way to train, whatever the epoch, the subset and its size.
    steps = [line for line in seen.compiled() if "train_chunk" in line]
    assert len(steps) == trained, steps
    for first, second in repeated:
        begin, end = seen.last(first), seen.last(second)
        assert begin < end, "the run did not get to a second time"
        assert not seen.compiled(begin, end)


@pytest.mark.parametrize("how", ["dc", "mtt"])
def test_a_second_matched_set_compiles_nothing(how, tmp_path):
    jax.clear_caches()
    setup, distiller = distiller_of(how)
    jobs = [job_of(setup, tmp_path / str(i), i, Progress(1.0)) for i in range(2)]
    with diary() as seen:
        distiller.distil(jobs[0], None)
        first = len(seen.lines)
        distiller.distil(jobs[1], None)
    assert len(seen.compiled(0, first)) > 3, "nothing was seen to compile"
    assert not seen.compiled(first)
