"""Ranking a pool on several devices: scores stay apart, the choice is that of one."""

import tempfile

import numpy as np
import pytest

from configs import hybrid
from jaxrobust import optim
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.tasks import ranking
from jaxrobust.tasks.setup import build_setup
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.tree import plain
from jaxrobust.workdir import Workdir
from tests.helpers import on_processes

SEED, BUDGET = 3, 77
INDEX = np.arange(3, 144)
WANTED = (("hard", False), ("mid", True), ("random", False))


def trainer(folder):
    """On all devices, with a pool whose size fits nothing."""
    c = hybrid.get_config("smoke")
    c.eval.batch_size, c.score.attack.num_steps = 48, 1
    setup = build_setup(plain(c))
    index = np.arange(145) % len(setup.splits.train)
    pool = make_pool(setup.splits.train.take(index), None)
    workdir = Workdir(f"{folder}/run", setup.config)
    return Trainer(setup, pool, workdir, Progress(1.0))


def fresh(made):
    """The state of a network that has learnt nothing."""
    tx = optim.make_optimiser(made.setup.config["optim"], 1)
    method = next(iter(made.setup.methods.values()))
    return made.fresh_state(tx, SEED, method)


def score_alone(made):
    """All scores of the candidates, by `score_pool`."""
    scoring = ranking.build_scoring(made.setup)
    return ranking.score_pool(made, scoring, fresh(made), INDEX, SEED)[0]


def ranked():
    """Of every way to choose: kept by `rank`, and by one device out of its scores."""
    with tempfile.TemporaryDirectory() as folder:
        made, found = trainer(folder), []
        state, scoring = fresh(made), ranking.build_scoring(made.setup)
        for order, balanced in WANTED:
            wanted = (INDEX, SEED, BUDGET, order, balanced)
            columns = ranking.rank(made, scoring, state, *wanted).columns
            alone, _ = ranking._keep(made, columns["score"], *wanted)
            again = ranking.choose(made, {"score": columns["score"]}, *wanted)
            found.append(
                {
                    "kept": np.flatnonzero(columns["kept"]).tolist(),
                    "alone": np.flatnonzero(alone).tolist(),
                    "again": np.flatnonzero(again.columns["kept"]).tolist(),
                    "scores": {k: columns[k].tolist() for k in ("score", "w_bdy")},
                }
            )
        return found


@pytest.fixture(scope="module")
def group():
    first, second = on_processes(2, 2, ranked)
    assert first == second
    return first


def test_scores_that_stay_apart_choose_what_one_place_would(group):
    for found in group:
        assert len(found["kept"]) == BUDGET
        assert found["kept"] == found["again"] == found["alone"]
    assert len({tuple(found["kept"]) for found in group}) == len(WANTED)


def test_collected_scores_are_those_of_one_device(group, tmp_path):
    made = trainer(tmp_path)
    alone = score_alone(made)
    for found in group:
        for name, values in found["scores"].items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-3, atol=1e-4)
