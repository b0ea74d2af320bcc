"""Ways to distil other than by a teacher, and the variants of the recipe."""

import numpy as np
import pytest

from configs import guard
from jaxrobust.errors import UserError
from jaxrobust.progress import Progress
from jaxrobust.tasks import TASKS
from jaxrobust.tasks.distilling import making, trajectories
from jaxrobust.tasks.distilling.sets import build_arms
from jaxrobust.tasks.fit import Preempted
from jaxrobust.tasks.setup import build_setup
from jaxrobust.tree import plain
from jaxrobust.workdir import Workdir
from tests import runs

WAYS = ("dc", "dm", "dsa", "mtt", "tesla")


def matching_config():
    """DC with GUARD, one control, as small as they go; settings of all `WAYS`."""
    c = guard.get_config("smoke")
    c.seeds = (0,)
    c.model.norm, c.model.widths = "instance", (4,)
    c.distill.controls = ("random",)
    c.distill.eps = ()
    c.distill.arms = {"dc": {"method": "dc", "real": "guard"}}
    c.distill.methods = {**guard.matchings(num_networks=2), **guard.trajectories()}
    for name in ("dc", "dsa", "dm"):
        c.distill.methods[name].matching.update(real_batch=4, chunk_steps=1)
    for name in ("dsa", "dm"):
        c.distill.methods[name].ops = ("flip",)
    for name in ("mtt", "tesla"):
        spec = c.distill.methods[name].trajectory
        spec.update(num_steps=2, chunk_steps=1, inner_steps=3, batch_size=10)
        spec.update(max_start=1, learning_rate=10.0, ops=("flip",))
        spec.experts.update(count=2, epochs=2, batch_size=50)
    return plain(c)


def test_students_of_matched_images_learn_hard_labels(tmp_path):
    config = matching_config()
    config["eval"]["attacks"] = {"pgd": config["eval"]["attacks"]["pgd"]}
    TASKS["distill"](config, str(tmp_path / "run"))
    found = {
        row["name"]: row.get("labels") for row in runs.results(tmp_path / "run")["runs"]
    }
    assert found == {
        "guard / all images": None,
        "random_hard / ipc 2": "hard",
        "dc / ipc 2": "hard",
        "random_hard / ipc 2 / pooled": "hard",
        "dc / ipc 2 / pooled": "hard",
    }


def distiller_of(how, **experts):
    """(setup, distiller) of this way, without GUARD; `experts` changes those of MTT and
    TESLA."""
    config = matching_config()
    for name in ("mtt", "tesla"):
        config["distill"]["methods"][name]["trajectory"]["experts"].update(experts)
    config["distill"]["arms"] = {how: {"method": how, "real": "standard"}}
    setup = build_setup(config)
    (arm,) = build_arms(setup)
    return setup, arm.distiller


def job_of(setup, path, number, progress):
    """To make set `number` in a run directory of its own."""
    workdir = Workdir(str(path), setup.config)
    return making.Job("images", 2, number, workdir, progress)


class Stops:
    """Asks for an end at the first question."""

    def __init__(self):
        self._plan = iter([True])

    def asked(self):
        return next(self._plan, False)


@pytest.mark.parametrize("how", WAYS)
def test_matching_moves_images_and_goes_on_where_it_was_cut(how, tmp_path, monkeypatch):
    setup, distiller = distiller_of(how)
    job = lambda name: job_of(setup, tmp_path / name, 0, Progress(1.0))
    whole = distiller.distil(job("whole"), None)
    assert whole.shape == (10, 2, 8, 8, 1)
    assert whole.min() >= 0 and whole.max() <= 1
    start = setup.config["distill"]["methods"][how]
    start = start.get("matching", start.get("trajectory"))["start"]
    first = making.first_images(setup, job("whole"), start)
    assert np.abs(whole - first).max() > 1e-4
    monkeypatch.setattr(making, "STOP", Stops())
    with pytest.raises(Preempted):
        distiller.distil(job("cut"), None)
    assert list((tmp_path / "cut" / "distilled").glob("images.state.npz"))
    np.testing.assert_array_equal(distiller.distil(job("cut"), None), whole)


class Counts:
    """What a progress line is told."""

    def __init__(self):
        self.skipped = self.done = 0.0

    def skip(self, work):
        self.skipped += work

    def update(self, work, *said):
        self.done += work


def test_a_run_cut_off_between_experts_keeps_and_counts_them(tmp_path, monkeypatch):
    setup, distiller = distiller_of("mtt")
    first, second = Counts(), Counts()
    monkeypatch.setattr(trajectories, "STOP", Stops())
    with pytest.raises(Preempted, match="expert 1/2"):
        distiller.distil(job_of(setup, tmp_path, 0, first), None)
    (kept,) = tmp_path.glob("experts/standard-*-set0/*")
    made = kept.stat().st_mtime_ns
    distiller.distil(job_of(setup, tmp_path, 0, second), None)
    assert kept.stat().st_mtime_ns == made, "trained again"
    assert second.skipped == first.done > 0
    assert second.skipped + second.done == distiller.work(2)


def test_arms_share_experts_only_where_these_are_alike(tmp_path):
    def images(how, name, **experts):
        setup, distiller = distiller_of(how, **experts)
        # In one run directory, whatever the settings.
        workdir = Workdir(str(tmp_path / name), {})
        name = f"{how}{len(experts)}"
        job = making.Job(name, 2, 0, workdir, Progress(1.0))
        return distiller.distil(job, None)

    folders = lambda: sorted(tmp_path.glob("together/experts/*"))
    images("mtt", "together")
    (first,) = folders()
    made = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    images("tesla", "together", count=1)
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == made
    assert folders() == [first]
    longer = images("tesla", "together", epochs=3, batch_size=25)
    assert len(folders()) == 2
    np.testing.assert_array_equal(
        longer, images("tesla", "alone", epochs=3, batch_size=25)
    )


def test_the_plain_arm_comes_first():
    config = matching_config()
    names = {"a_guard": "guard", "b_plain": "standard", "c_adv": "pgd_at"}
    config["distill"]["arms"] = {
        name: {"method": "dc", "real": real} for name, real in names.items()
    }
    arms = [arm.name for arm in build_arms(build_setup(config))]
    assert arms == ["b_plain", "a_guard", "c_adv"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with 120 colour images of 10 classes in train.npz and test.npz."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        image = draw.integers(0, 256, (1000, 8, 8, 3)).astype(np.uint8)
        label = np.arange(1000) % 10
        np.savez(folder / f"{split}.npz", image=image, label=label)
    return folder


@pytest.mark.parametrize(
    "variant", [v for v in guard.VARIANTS if "cifar" in v or "net" in v]
)
def test_every_variant_builds(variant, pictures):
    c = guard.get_config(variant)
    c.data.name, c.data.path, c.data.image_size = "npz", str(pictures), 0
    c.data.train_limit = 0
    setup = build_setup(plain(c))
    arms = build_arms(setup)
    assert len(arms) >= 2 and {"standard", "guard"} <= {a.real.name for a in arms}


@pytest.mark.parametrize(("how", "block"), [("dc", "matching"), ("mtt", "trajectory")])
def test_unknown_and_missing_settings_of_a_method_are_named(how, block):
    config = matching_config()
    config["distill"]["arms"] = {how: {"method": how, "real": "standard"}}
    spec = config["distill"]["methods"][how][block]
    spec["momentun"] = 0.5
    with pytest.raises(UserError, match=f"{block}.*'momentun': did you mean momentum"):
        build_arms(build_setup(config))
    del spec["momentun"], spec["clip"]
    with pytest.raises(UserError, match=f"{block}.* needs a value for clip"):
        build_arms(build_setup(config))


def test_an_unknown_setting_of_a_view_is_named():
    config = plain(guard.get_config("smoke"))
    config["distill"]["methods"]["sre2l"]["view"]["flips"] = True
    with pytest.raises(UserError, match="view.*'flips': did you mean flip"):
        build_arms(build_setup(config))
