"""Whole evaluations beside the released packages', on one network of digits.

Every test prints its row of docs/evaluation.md (`pytest -s`).
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxrobust import data, losses, sharding
from jaxrobust.attacks.pgd import pgd
from jaxrobust.evaluators import autoattack
from jaxrobust.finished import open_run
from jaxrobust.interop import export_torch
from jaxrobust.tasks.networks import load_network
from jaxrobust.threat import make_threat
from tests.helpers import ROOT, image_keys

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("ml_collections", reason="recipes are ml_collections configs")
from tests.interop.export_test import foreign  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.torch]

COUNT, SEEDS = 200, 5
EPS = {"linf": 0.15, "l2": 0.6, "l1": 1.0}
THEIR_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}
APGD = ("apgd-ce", "apgd-t")
EVERY = pytest.mark.parametrize("norm", EPS)
FOLDER: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    """In place of the one in conftest.py: these attacks run longer than they
    compile."""
    FOLDER["run"] = tmp_path_factory.mktemp("digits") / "run"
    yield


class Twin(NamedTuple):
    """One network twice, and images f32[N,8,8,1] with their labels i32[N]."""

    ours: Any
    theirs: Any
    image: np.ndarray
    label: np.ndarray

    def to_torch(self):
        """(x f32[N,1,8,8], y i64[N])"""
        x = np.ascontiguousarray(np.moveaxis(self.image, -1, 1))
        return torch.tensor(x), torch.tensor(self.label).long()

    def survives(self, x):
        """bool[N]: their network still reads x f32[N,1,8,8] right."""
        with torch.no_grad():
            return self.theirs(x).argmax(1).numpy() == self.label


@cache
def twin():
    """A network of configs/hybrid.py after 300 steps of PGD-AT on 300 digits."""
    from jaxrobust.main import main

    options = {
        "compare": "('pgd_at',)",
        "seeds": "(0,)",
        "data.train_limit": 300,
        "data.val_count": 0,
        "train.probe_every_steps": 0,
        "train.num_steps": 300,
    }
    given = [f"--config.{key}={value}" for key, value in options.items()]
    recipe = f"--config={ROOT / 'configs' / 'adversarial.py'}"
    assert main(["jaxrobust", recipe, f"--workdir={FOLDER['run']}", *given]) == 0
    run = open_run(str(FOLDER["run"]))
    splits = data.load_splits(**run.config["data"])
    ours = load_network(run, run.rows[0], splits, sharding.make_mesh(1), "").logits_fn
    exported = FOLDER["run"].with_name("exported")
    export_torch(ours.func.model, ours.args[0], exported)  # pyright: ignore
    theirs = foreign(exported).load().requires_grad_(False)
    image = np.asarray(splits.test.image[:COUNT], np.float32) / 255.0
    return Twin(ours, theirs, image, np.asarray(splits.test.label[:COUNT], np.int32))


def their_flags(norm, attacks=(), seed=0):
    """bool[N]: still read right after pyautoattack, by default the standard one."""
    package = pytest.importorskip("pyautoattack")
    evaluation = package.AutoAttack(
        twin().theirs, norm=THEIR_NORM[norm], eps=EPS[norm], seed=seed
    )
    # Named after the fact, so that each keeps the settings of the standard version.
    evaluation.attacks_to_run = list(attacks or evaluation.attacks_to_run)
    x, y = twin().to_torch()
    x_adv, _ = evaluation.run_standard_evaluation(x, y, batch_size=100)
    return twin().survives(x_adv)


def our_flags(norm, attacks=(), seed=0, version="standard"):
    """bool[N]: the same for ours."""
    threat, key = make_threat(norm, EPS[norm]), jax.random.key(seed)
    found = autoattack(
        twin().ours, twin().image, twin().label, threat, key=key,
        version="custom" if attacks else version, components=attacks, batch_size=100,
    )  # fmt: skip
    # Their network must be fooled by our images, not only our copy of it.
    x_adv = torch.tensor(np.ascontiguousarray(np.moveaxis(found.x_adv, -1, 1)))
    np.testing.assert_array_equal(twin().survives(x_adv), found.robust)
    return found.robust


@cache
def apgd_runs(norm):
    """(theirs, ours) bool[SEEDS,N] by APGD-CE and APGD-T, which decide nearly all."""
    theirs = np.stack([their_flags(norm, APGD, seed) for seed in range(SEEDS)])
    ours = np.stack([our_flags(norm, APGD, seed) for seed in range(SEEDS)])
    return theirs, ours


def report(package, norm, theirs, ours):
    """Print the row; returns (robust theirs - ours, images that disagree)."""
    only_theirs, only_ours = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    print(
        f"\n| {package} | {norm} | {EPS[norm]} | {len(ours)} | {theirs.sum()} "
        f"| {ours.sum()} | {only_theirs} | {only_ours} |"
    )
    return int(theirs.sum()) - int(ours.sum()), theirs != ours


def test_the_networks_agree():
    with torch.no_grad():
        theirs = twin().theirs(twin().to_torch()[0]).numpy()
    ours = np.asarray(jax.jit(twin().ours)(twin().image))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert 0.9 < (ours.argmax(1) == twin().label).mean() < 1.0


@EVERY
def test_apgd_is_as_strong(norm):
    theirs, ours = apgd_runs(norm)
    print(f"\n{norm}: robust theirs {theirs.sum(1)}, ours {ours.sum(1)}")
    assert abs(theirs.sum(1).mean() - ours.sum(1).mean()) <= 1.5
    # No image that all seeds of one side hold falls to all seeds of the other.
    assert not (theirs.all(0) & ~ours.any(0)).any()
    assert not (ours.all(0) & ~theirs.any(0)).any()


@EVERY
def test_the_protocol_gives_the_flags_of_pyautoattack(norm):
    theirs, ours = their_flags(norm), our_flags(norm)
    weaker, differ = report("pyautoattack", norm, theirs, ours)
    assert -1 <= weaker <= 2 and differ.sum() <= 3
    # Only where a package, run with other seeds, disagrees with itself.
    runs = np.concatenate(apgd_runs(norm))
    assert not differ[runs.all(0) | ~runs.any(0)].any()
    assert 0.3 < theirs.mean() < 0.8


@EVERY
def test_fab_alone_decides_image_by_image(norm):
    theirs, ours = (flags(norm, ("fab-t",)) for flags in (their_flags, our_flags))
    _, differ = report("pyautoattack fab-t", norm, theirs, ours)
    assert differ.sum() <= 1


@EVERY
def test_square_alone_is_as_strong(norm):
    theirs, ours = (flags(norm, ("square",)) for flags in (their_flags, our_flags))
    weaker, _ = report("pyautoattack square", norm, theirs, ours)
    assert abs(weaker) <= 4 and ours.sum() < 190


@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_version_torchattacks_is_autoattack_of_torchattacks(norm):
    package = pytest.importorskip("torchattacks")
    attack = package.AutoAttack(
        twin().theirs, norm=THEIR_NORM[norm], eps=EPS[norm], n_classes=10, seed=0
    )
    theirs = twin().survives(attack(*twin().to_torch()))
    ours = our_flags(norm, version="torchattacks")
    weaker, _ = report("torchattacks", norm, theirs, ours)
    assert abs(weaker) <= 2


@pytest.mark.parametrize("start", ("none", "uniform"))
def test_pgd_is_linf_pgd_of_foolbox(start):
    package = pytest.importorskip("foolbox")
    model = package.PyTorchModel(twin().theirs, bounds=(0, 1), device="cpu")
    attack = package.attacks.LinfPGD(
        abs_stepsize=0.0375, steps=20, random_start=start == "uniform"
    )
    torch.manual_seed(0)
    _, x_adv, _ = attack(model, *twin().to_torch(), epsilons=EPS["linf"])
    theirs = twin().survives(x_adv)
    threat = make_threat("linf", EPS["linf"])
    built = pgd(threat, losses.cross_entropy, 0.0375, 20, start, 1, keep_best=False)
    keys = image_keys(np.arange(COUNT))
    x = jax.jit(built, static_argnums=1)(keys, twin().ours, twin().image, twin().label)
    ours = twin().survives(torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy()))
    weaker, differ = report(f"foolbox start {start}", "linf", theirs, ours)
    assert abs(weaker) <= 2 and (start == "uniform" or differ.sum() <= 1)
