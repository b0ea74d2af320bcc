"""FAB-T against the released PyTorch code, on the same network and images."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.fab import fab, fab_component, minimal_perturbation
from jaxrobust.attacks.machine import Work, ranked_others
from jaxrobust.threat import NORMS, ThreatModel
from tests.helpers import image_keys

torch = pytest.importorskip("torch")
pytest.importorskip("pyautoattack")
pytestmark = [pytest.mark.slow, pytest.mark.torch]

EVERY = pytest.mark.parametrize("norm", NORMS)
THEIR_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}
COUNT, SIDE, CLASSES = 40, 6, 5
STEPS, FIRST_STEPS = 30, 10
KEYS = np.arange(COUNT)


class Net(torch.nn.Module):
    """A convolution and two dense layers over images in NCHW."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.hidden = torch.nn.Linear(8 * 9, 24)
        self.out = torch.nn.Linear(24, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2.0)

    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(1)
        return self.out(torch.tanh(self.hidden(x)))


def logits(weights, x):
    """The same network over NHWC."""
    conv, conv_bias, hidden, hidden_bias, out, out_bias = weights
    x = jax.lax.conv_general_dilated(
        x,
        jnp.transpose(conv, (2, 3, 1, 0)),
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    x = jax.nn.relu(x + conv_bias.reshape(1, 1, 1, -1))
    x = jnp.transpose(x, (0, 3, 1, 2)).reshape(len(x), -1)
    x = jnp.tanh(x @ hidden.T + hidden_bias.reshape(1, -1))
    return x @ out.T + out_bias.reshape(1, -1)


def problem(dtype):
    """(torch network, our network, NHWC images, labels that it gets right)."""
    net = Net().to(getattr(torch, dtype)).requires_grad_(False)
    weights = [p.numpy().astype(dtype) for p in net.parameters()]
    draw = np.random.default_rng(0).uniform(size=(COUNT, SIDE, SIDE, 3))
    image = np.where(draw < 0.1, 0.0, np.where(draw > 0.9, 1.0, draw)).astype(dtype)
    label = net(to_torch(image)).argmax(1).numpy().astype(np.int32)
    return net, partial(logits, [jnp.asarray(w) for w in weights]), image, label


def to_torch(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))


def from_torch(image):
    return image.numpy().transpose(0, 2, 3, 1)


def their_attack(net, norm, num_steps, eps=None, targeted=True):
    """Their FAB, and the list of all points at which its targeted form linearises."""
    from pyautoattack.fab_pt import FABAttack_PT

    attack = FABAttack_PT(
        net,
        norm=THEIR_NORM[norm],
        n_iter=num_steps,
        eps=eps,
        targeted=targeted,
        n_target_classes=CLASSES - 1,
        device="cpu",
    )
    seen, slopes = [], attack.get_diff_logits_grads_batch_targeted

    def record(x, *classes):
        seen.append(from_torch(x.clone()))
        return slopes(x, *classes)

    attack.get_diff_logits_grads_batch_targeted = record
    return attack, seen


@cache
def their_distances(norm):
    """f32[CLASSES-1,COUNT], inf where no point was found, for the targets by rank."""
    net, ours, image, label = problem("float32")
    attack, _ = their_attack(net, norm, STEPS)
    found = []
    for attack.target_class in range(2, CLASSES + 1):
        x = attack.attack_single_run(
            to_torch(image), torch.from_numpy(label).long(), is_targeted=True
        )
        wrong = net(x).argmax(1).numpy() != label
        distance = ThreatModel(1.0, norm).distance(from_torch(x), image)
        found.append(np.where(wrong, distance, np.inf))
    return np.stack(found)


def our_run(norm, num_steps, ours, image, label, rank, targeted=True):
    """(final state, the points after every step) towards the class of this rank."""
    component = fab_component("fab", num_steps, 1, targeted)
    machine = component.machine(ThreatModel(0.0, norm))
    other = ranked_others(ours(image), label)[:, rank]
    work = Work(image_keys(KEYS), jnp.asarray(image), jnp.asarray(label), other)

    def step(state, position):
        position = jnp.full(len(image), position)
        state = machine.step(work, ours, state, position)
        return state, state.x

    return jax.lax.scan(step, machine.start(work), jnp.arange(num_steps))


def agree(ours, theirs):
    """bool: within 1e-3 of each other, or both inf."""
    same = np.isinf(ours) & np.isinf(theirs)
    with np.errstate(invalid="ignore"):
        return same | (np.abs(ours / theirs - 1) < 1e-3)


@EVERY
def test_distances_to_every_target_agree(norm):
    _, ours, image, label = problem("float32")
    run = jax.jit(lambda rank: our_run(norm, STEPS, ours, image, label, rank)[0].best)
    best = np.stack([run(rank) for rank in range(CLASSES - 1)])
    same = agree(best, their_distances(norm))
    assert same.mean() >= 0.95
    assert (np.isfinite(best) == np.isfinite(their_distances(norm))).all()


@EVERY
def test_untargeted_distances_agree(norm):
    net, ours, image, label = problem("float32")
    attack, _ = their_attack(net, norm, STEPS, targeted=False)
    x = attack.attack_single_run(to_torch(image), torch.from_numpy(label).long())
    assert (net(x).argmax(1).numpy() != label).all()
    theirs = np.asarray(ThreatModel(1.0, norm).distance(from_torch(x), image))
    run = jax.jit(lambda: our_run(norm, STEPS, ours, image, label, 0, False)[0].best)
    assert agree(np.asarray(run()), theirs).mean() >= 0.95
    assert not agree(theirs, their_distances(norm)[0]).all()


@EVERY
def test_minimal_perturbations_agree(norm):
    _, ours, image, label = problem("float32")
    search = jax.jit(minimal_perturbation(norm, STEPS, 9, 0), static_argnums=1)
    x, best = map(np.asarray, search(image_keys(KEYS), ours, image, label))
    theirs = their_distances(norm).min(axis=0)
    assert np.isfinite(best).mean() > 0.9
    assert agree(best, theirs).mean() >= 0.95


@EVERY
def test_flags_agree(norm):
    net, ours, image, label = problem("float32")
    least = np.sort(their_distances(norm).min(axis=0))[COUNT // 4 : -COUNT // 4]
    widest = np.argmax(least[1:] / least[:-1])
    eps = float(np.sqrt(least[widest] * least[widest + 1]))
    attack, _ = their_attack(net, norm, STEPS, eps)
    theirs = from_torch(attack.perturb(to_torch(image), torch.from_numpy(label).long()))
    attack = jax.jit(fab(ThreatModel(eps, norm), STEPS, CLASSES - 1), static_argnums=1)
    x = attack(image_keys(KEYS), ours, image, label)
    flags = np.asarray(jnp.argmax(ours(x), axis=1)) != label
    their_flags = net(to_torch(theirs)).argmax(1).numpy() != label
    np.testing.assert_array_equal(flags, their_flags)
    assert 0.2 < flags.mean() < 0.8


@EVERY
def test_first_steps_agree_in_float64(norm, monkeypatch):
    with jax.enable_x64(True):
        net, ours, image, label = problem("float64")
        _, points = our_run(norm, FIRST_STEPS, ours, image, label, 0)
    # Their code casts images to float32 and makes new tensors of the default type.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    try:
        attack, seen = their_attack(net, norm, FIRST_STEPS + 1)
        attack.target_class = 2
        attack.attack_single_run(
            to_torch(image), torch.from_numpy(label).long(), is_targeted=True
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert points.dtype == np.float64 and seen[0].dtype == np.float64
    np.testing.assert_array_equal(seen[0], image)
    np.testing.assert_allclose(points, np.stack(seen[1:]), rtol=0, atol=1e-10)
