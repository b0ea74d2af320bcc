"""A run moves to other devices while it goes on: two processes of four devices are
killed, one process of two finishes, and what one device would have chosen is chosen."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxrobust.selection import load_manifest
from tests import runs
from tests.groups import QUICK, kill_at, layouts, losses, start_group

RUN = (
    "--config=configs/coreset.py:smoke",
    "--config.eval.batch_size=48",
    "--config.score.batch_size=48",
    "--config.model.widths=(8,)",
    "--config.methods.pgd_at.attack.num_steps=3",
    "--config.eval.attacks.pgd.num_steps=3",
    "--config.eval.attacks.cw.num_steps=3",
    "--config.train.checkpoint_every_steps=4",
)
STAGE = "seed0/craig-50-equal-epochs"
"""It has 12 steps, chooses at 6, 8 and 10, and saves at 4, 8 and 12."""


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> Path:
    """The same run, undisturbed."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    runs.run_process(workdir, *RUN, **QUICK)
    return workdir


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> Path:
    """Killed when the second coreset is about to be chosen, then finished elsewhere."""
    workdir = tmp_path_factory.mktemp("moved") / "run"
    group = start_group(workdir, 4, *RUN)
    kill_at(workdir / "checkpoints" / STAGE / "8", group)
    assert devices_of(workdir) == 8
    runs.run_process(workdir, *RUN, "--cpu_devices=2", **QUICK)
    return workdir


def devices_of(workdir: Path) -> int:
    """How many wrote the first checkpoint of `STAGE`."""
    checkpoint = workdir / "checkpoints" / STAGE / "4"
    (shape,) = {tuple(layout["shape"]) for layout in layouts(checkpoint)}
    return int(np.prod(shape))


def test_it_goes_on_where_it_was_killed(moved):
    assert re.search(f"resuming {STAGE} at step [48]", (moved / "log.txt").read_text())
    device = runs.card(moved)["device"]
    assert device.startswith("2 x") and "1 process(es)" in device
    # The rows that the group had finished are among those of the end.
    assert list(runs.rows(moved))[:2] == [
        "full / 100% equal epochs",
        "random / 50% equal epochs",
    ]


def test_the_same_images_are_chosen(moved, one_device):
    names = sorted(path.stem for path in one_device.glob("selections/*.npz"))
    assert names == sorted(path.stem for path in moved.glob("selections/*.npz"))
    assert len([name for name in names if "step" in name]) == 3 * 3
    for name in names:
        ours, theirs = (
            load_manifest(path / "selections" / name).subset
            for path in (moved, one_device)
        )
        np.testing.assert_array_equal(ours.index, theirs.index, name)
        np.testing.assert_allclose(ours.weight, theirs.weight, rtol=1e-5)


def test_losses_differ_by_rounding_and_accuracies_not_at_all(moved, one_device):
    ours, theirs = losses(moved), losses(one_device)
    assert ours.keys() == theirs.keys()
    for key, loss in theirs.items():
        assert ours[key] == pytest.approx(loss, rel=1e-5), key
    ours, theirs = runs.rows(moved), runs.rows(one_device)
    assert ours.keys() == theirs.keys()
    for name, row in theirs.items():
        for key in ("clean_acc", "pgd_acc", "cw_acc"):
            assert ours[name][key] == row[key], (name, key)
