"""Weights that lie in parts on the devices of two processes are saved by both of them;
killed, the run goes on on one device, where each is whole."""

import pytest

from tests import runs
from tests.groups import QUICK, kill_at, layouts, losses, start_group

RUN = (
    "--config=configs/adversarial.py:smoke",
    "--config.compare=('pgd_at',)",
    "--config.eval.batch_size=48",
    "--config.model.widths=(64,128)",
    "--config.train.batch_size=48",
    "--config.train.checkpoint_every_steps=2",
    "--config.train.chunk_steps=2",
    "--config.train.num_epochs=3",
    "--config.train.shard_params=True",
)
STAGE = "seed0/pgd_at-original"


def test_parts_of_weights_go_on_as_wholes(tmp_path):
    moved, alone = tmp_path / "moved", tmp_path / "alone"
    checkpoints = moved / "checkpoints" / STAGE
    kill_at(checkpoints / "4", start_group(moved, 2, *RUN))
    laid = [layout["partition_spec"] for layout in layouts(checkpoints / "2")]
    assert ["data"] in [[axis for axis in spec if axis] for spec in laid]
    runs.run_process(moved, *RUN, **QUICK)
    assert f"resuming {STAGE} at step" in (moved / "log.txt").read_text()
    runs.run_process(alone, *RUN, **QUICK)
    ours, theirs = losses(moved), losses(alone)
    assert len(theirs) > 2 and ours.keys() == theirs.keys()
    for key, loss in theirs.items():
        assert ours[key] == pytest.approx(loss, rel=1e-5), key
