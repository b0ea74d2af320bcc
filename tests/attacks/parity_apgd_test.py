"""APGD against pyautoattack: the same weights and start, every point of 100 steps."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.apgd import apgd_machine
from jaxrobust.threat import ThreatModel
from tests.attacks import torch_twin

pytestmark = [pytest.mark.slow, pytest.mark.torch]
reference = pytest.importorskip("pyautoattack.autopgd_base")
torch = pytest.importorskip("torch")
doubles = torch_twin.doubles

# A power of two, where counting shares of pixel values is exact in floating point.
SHAPE, COUNT, STEPS = (4, 8, 4), 6, 100
EPS = {"linf": 0.02, "l2": 0.2, "l1": 1.0}
LOSSES = {"cross_entropy": "ce", "dlr": "dlr", "dlr_targeted": "dlr-targeted"}
EVERY = pytest.mark.parametrize("goal", LOSSES)


def setting(norm):
    parts = torch_twin.weights(SHAPE)
    work = torch_twin.make_work(parts, SHAPE, COUNT)
    return parts, work, ThreatModel(EPS[norm], norm)


def theirs(norm, goal, parts, work):
    """(the attack with what its `perturb` would set, the points it looked at)."""
    seen = []
    net = torch_twin.torch_net(parts, seen)
    options = dict(n_iter=STEPS, norm=torch_twin.NORMS[norm], eps=EPS[norm])
    if goal == "dlr_targeted":
        attack = reference.APGDAttack_targeted(net, **options)
        attack.y_target = torch.tensor(np.asarray(work.other)).long()
    else:
        attack = reference.APGDAttack(net, loss=LOSSES[goal], **options)
    x, y = torch_twin.to_nchw(work.image), torch.tensor(np.asarray(work.label)).long()
    attack.init_hyperparam(x)
    return attack, x, y, seen


def compare(norm, goal, parts, work, threat, start, result, seen):
    machine = apgd_machine(threat, goal, STEPS, 0.75, 1)
    state = machine.start(work)._replace(x=jnp.asarray(start))
    net = torch_twin.jax_net(parts)
    last, before = torch_twin.all_steps(machine, work, net, state)
    assert len(seen) == machine.num_steps
    apart = np.abs(np.asarray(before.x) - np.stack(seen)).max()
    x_best, still_right, loss_best, _ = result
    assert apart < 1e-6
    assert loss_gap(last, loss_best) < 1e-6
    np.testing.assert_allclose(last.x_best, torch_twin.to_nhwc(x_best), atol=1e-6)
    return last, before, still_right.numpy().astype(bool)


def loss_gap(state, loss_best):
    return np.abs(np.asarray(state.loss_best) - loss_best.detach().numpy()).max()


@EVERY
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_point_equals_the_reference(norm, goal):
    parts, work, threat = setting(norm)
    draw = np.random.default_rng(2).normal(size=work.image.shape)
    start = threat.project(work.image + jnp.asarray(draw), work.image)
    attack, x, y, seen = theirs(norm, goal, parts, work)
    result = attack.attack_single_run(x, y, x_init=torch_twin.to_nchw(start))
    last, before, _ = compare(norm, goal, parts, work, threat, start, result, seen)
    # The rows of this setting must have made different decisions.
    halvings = np.round(np.log2(2 * EPS[norm] / np.asarray(last.step_size)))
    assert halvings.min() >= 1 and (before.found.any() or halvings.std() > 0)


@EVERY
def test_every_point_equals_the_reference_in_l1(goal, monkeypatch):
    parts, work, threat = setting("l1")
    noise = np.random.default_rng(2).normal(size=work.image.shape)
    start = replace(threat, eps=3 * threat.eps).project(
        work.image + jnp.asarray(noise), work.image
    )
    # The reference counts rounding errors of values it moved back as changed.
    count = lambda x: (x.abs() > 1e-12).reshape(len(x), -1).sum(-1)
    monkeypatch.setattr(reference, "L0_norm", count)
    monkeypatch.setattr(torch, "randn_like", lambda _: torch_twin.to_nchw(noise))
    attack, x, y, seen = theirs("l1", goal, parts, work)
    result = attack.decr_eps_pgd(
        x, y, [3 * EPS["l1"], 2 * EPS["l1"], EPS["l1"]], [30, 30, 40]
    )
    last, before, still_right = compare(
        "l1", goal, parts, work, threat, start, result, seen
    )
    found = np.asarray(jnp.concatenate([before.found, last.found[None]])).any(0)
    np.testing.assert_array_equal(found, ~still_right)
    assert len(np.unique(np.asarray(last.changed))) > 1
