"""One step of every objective gives the numbers it gave before.

A difference is either a bug or a change of numerics: `python -m tests.golden.update`
shows and accepts the latter. On one CPU type the numbers repeat to all digits; the
tolerance covers other instruction sets and versions of XLA.
"""

import pytest

from jaxrobust.objectives import OBJECTIVES
from tests.golden.step import golden, stored

RTOL = 1e-4


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_one_step_gives_the_numbers_it_gave(name):
    assert golden(name) == pytest.approx(stored()[name], rel=RTOL, abs=RTOL)


def test_the_file_holds_every_objective_and_no_other():
    assert set(stored()) == set(OBJECTIVES)


def test_objectives_differ():
    losses = {round(golden(name)["loss"], 4) for name in OBJECTIVES}
    assert len(losses) == len(OBJECTIVES)
