"""Attacks on the ResNet-18 that pyautoattack ships, beside its own, on real images."""

import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import state
from jaxrobust.attacks.apgd import apgd_machine
from jaxrobust.attacks.fab import fab_component
from jaxrobust.attacks.machine import Work, ranked_others
from jaxrobust.data.npz import npz
from jaxrobust.evaluators import autoattack
from jaxrobust.interop import load_torch
from jaxrobust.models import MODELS
from jaxrobust.registry import build
from jaxrobust.threat import ThreatModel, make_threat
from tests.attacks.torch_twin import all_steps, to_nchw, to_nhwc
from tests.data.cifar10_copy_test import UNPACK
from tests.helpers import image_keys

torch = pytest.importorskip("torch")
pytest.importorskip("pyautoattack")
from tests.interop.weights_test import published_resnet18  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torch,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not UNPACK.is_file(), reason="the CIFAR-10 copy is not in ../shared/data"
    ),
]

COUNT, EPS, FEW = 16, 0.5 / 255, 4
THEIR_NORM = {"linf": "Linf", "l2": "L2"}
FAB_STEPS, APGD_STEPS = 6, 20


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """In place of the one in conftest.py: a ResNet runs longer than it compiles."""
    yield


class Twin(NamedTuple):
    """One network twice, images f32[N,32,32,3] and their labels i32[N]."""

    ours: Any
    theirs: Any
    image: np.ndarray
    label: np.ndarray


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    path, theirs = published_resnet18()
    theirs.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    spec, variables = load_torch(path)
    ours = state.bind(build("model", MODELS, spec), variables, "running")
    folder = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(UNPACK), str(folder)], check=True)
    test = npz("test", str(folder))
    rows = np.random.RandomState(0).permutation(len(test))[:COUNT]
    image = np.stack([test.image[row] for row in rows]).astype(np.float32) / 255.0
    label = np.asarray(test.label)[rows].astype(np.int32)
    return Twin(ours, theirs.eval().requires_grad_(False), image, label)


@pytest.fixture(scope="module")
def logits(twin):
    """f32[N,10] of our network."""
    return np.asarray(jax.jit(twin.ours)(twin.image))


@pytest.fixture(scope="module")
def few(twin, logits):
    """(Work, x, y) of the first images that are read right."""
    rows = np.flatnonzero(logits.argmax(1) == twin.label)[:FEW]
    image, label = twin.image[rows], twin.label[rows]
    other = ranked_others(jnp.asarray(logits[rows]), jnp.asarray(label))
    work = Work(image_keys(rows), jnp.asarray(image), jnp.asarray(label), other)
    return work, to_nchw(image), torch.tensor(label).long()


def test_the_networks_agree(twin, logits):
    theirs = twin.theirs(to_nchw(twin.image)).numpy()
    np.testing.assert_allclose(logits, theirs, atol=1e-4 * np.abs(theirs).max())
    assert 0.7 < (logits.argmax(1) == twin.label).mean() < 1.0


def their_fab(net, norm, rank, x, y):
    """f32[B,32,32,3]: their FAB-T towards the class of this rank."""
    from pyautoattack.fab_pt import FABAttack_PT

    attack = FABAttack_PT(net, norm=THEIR_NORM[norm], n_iter=FAB_STEPS, device="cpu")
    attack.target_class = rank + 2
    return to_nhwc(attack.attack_single_run(x, y, is_targeted=True))


@pytest.mark.parametrize("norm", THEIR_NORM)
def test_fab_is_as_near_image_by_image(twin, few, norm):
    work, x, y = few
    threat = ThreatModel(0.0, norm)
    machine = fab_component("fab", FAB_STEPS, 1, True).machine(threat)

    @jax.jit
    def nearest(work):
        return all_steps(machine, work, twin.ours, machine.start(work))[0].best

    apart = []
    for rank in (0, 1):
        found = their_fab(twin.theirs, norm, rank, x, y)
        theirs = np.asarray(threat.distance(found, work.image))
        assert (theirs > 0).all()
        ours = np.asarray(nearest(work._replace(other=work.other[:, rank])))
        apart.extend(np.abs(ours / theirs - 1))
    print(f"\nfab-t {norm}: relative differences {np.sort(apart)}")
    # In linf one point lies on the boundary to 1e-6 of the logits: float32 decides on
    # which side, and the next steps depend on it.
    assert np.sum(np.asarray(apart) > 1e-3) <= 1


def test_apgd_reaches_the_same_loss_for_every_image(twin, few):
    from pyautoattack.autopgd_base import APGDAttack

    work, x, y = few
    threat = make_threat("linf", EPS)
    noise = np.random.default_rng(0).uniform(-EPS, EPS, work.image.shape)
    start = threat.project(work.image + noise.astype(np.float32), work.image)
    attack = APGDAttack(twin.theirs, n_iter=APGD_STEPS, norm="Linf", eps=EPS)
    attack.init_hyperparam(x)
    _, right, theirs, _ = attack.attack_single_run(x, y, x_init=to_nchw(start))
    machine = apgd_machine(threat, "cross_entropy", APGD_STEPS, 0.75, 1)
    work = work._replace(other=work.other[:, 0])
    begun = machine.start(work)._replace(x=start)
    last, before = all_steps(machine, work, twin.ours, begun)
    # A loss near 0 is the logarithm of a number near 1: float32 has 1e-7 of it.
    np.testing.assert_allclose(last.loss_best, theirs.numpy(), rtol=1e-4, atol=1e-6)
    found = np.asarray(before.found).any(0) | np.asarray(last.found)
    np.testing.assert_array_equal(found, ~right.numpy().astype(bool))


def test_the_standard_version_gives_the_same_flags(twin):
    package = pytest.importorskip("pyautoattack")
    x, y = to_nchw(twin.image), torch.tensor(twin.label).long()
    evaluation = package.AutoAttack(twin.theirs, norm="Linf", eps=EPS, seed=0)
    x_adv, _ = evaluation.run_standard_evaluation(x, y, batch_size=COUNT)
    survives = lambda x: twin.theirs(x).argmax(1).eq(y).numpy()
    theirs = survives(x_adv)
    found = autoattack(
        twin.ours, twin.image, twin.label, make_threat("linf", EPS),
        key=jax.random.key(0), batch_size=COUNT,
    )  # fmt: skip
    print(f"\nrobust theirs {theirs.sum()}, ours {found.robust.sum()}")
    np.testing.assert_array_equal(survives(to_nchw(found.x_adv)), found.robust)
    assert abs(int(theirs.sum()) - int(found.robust.sum())) <= 1
    assert 0.3 < theirs.mean() < 0.7
