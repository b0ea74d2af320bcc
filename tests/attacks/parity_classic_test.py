"""MIM, CW-l2 and DeepFool against torchattacks and foolbox on the same network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.cw_l2 import cw_l2
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.attacks.mim import mim
from jaxrobust.threat import make_threat
from tests.helpers import image_keys, random_images

pytestmark = [pytest.mark.slow, pytest.mark.torch]
SHAPE, CLASSES, HIDDEN = (6, 6, 3), 5, 24
DRAW = np.random.default_rng(11)
INPUTS = int(np.prod(SHAPE))
IN = (DRAW.normal(size=(INPUTS, HIDDEN)) / 3).astype(np.float32)
OUT = DRAW.normal(size=(HIDDEN, CLASSES)).astype(np.float32)


def logits_fn(x):
    return jnp.tanh(jnp.reshape(x - 0.5, (len(x), -1)) @ IN) @ OUT


def torch_network():
    """The same network for images [B,C,H,W]."""
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.into = torch.nn.Parameter(torch.tensor(IN))
            self.out = torch.nn.Parameter(torch.tensor(OUT))

        def forward(self, x):
            flat = (x.permute(0, 2, 3, 1) - 0.5).flatten(1)
            return torch.tanh(flat @ self.into) @ self.out

    return Network().eval()


def data(count):
    image = random_images(count, seed=4, shape=SHAPE, low=0.05, high=0.95)
    label = np.argmax(logits_fn(image), axis=1)
    return image, label


def to_torch(image, label):
    import torch

    return torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(label).long()


def from_torch(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def attacked(built, image, label):
    run = jax.jit(lambda keys, image: built(keys, logits_fn, image, label))
    return np.asarray(run(image_keys(np.arange(len(image))), image))


def fooled(x, label):
    return np.asarray(losses.margin(logits_fn(x), label)) > 0


def test_the_networks_agree():
    network = torch_network()
    image, label = data(8)
    theirs = network(to_torch(image, label)[0]).detach().numpy()
    np.testing.assert_allclose(logits_fn(image), theirs, atol=1e-5)


@pytest.mark.parametrize("decay", (0.0, 1.0))
def test_mim_is_mifgsm_of_torchattacks(decay):
    torchattacks = pytest.importorskip("torchattacks")
    image, label = data(32)
    theirs = torchattacks.MIFGSM(
        torch_network(), eps=8 / 255, alpha=2 / 255, steps=10, decay=decay
    )
    expected = from_torch(theirs(*to_torch(image, label)))
    threat = make_threat("linf", 8 / 255)
    ours = mim(threat, losses.cross_entropy, 2 / 255, 10, decay, False)
    np.testing.assert_allclose(attacked(ours, image, label), expected, atol=1e-5)


def foolbox_run(attack, image, label):
    """(x_adv, success bool[B]) of a foolbox attack without a limit on distance."""
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(torch_network(), bounds=(0, 1), device="cpu")
    _, clipped, success = attack(model, *to_torch(image, label), epsilons=None)
    return from_torch(clipped), success.numpy()


def test_cw_is_as_close_as_foolbox():
    foolbox = pytest.importorskip("foolbox")
    image, label = data(8)
    options = {"confidence": 0, "initial_const": 1e-3, "binary_search_steps": 9}
    theirs, success = foolbox_run(
        foolbox.attacks.L2CarliniWagnerAttack(steps=300, stepsize=0.01, **options),
        image,
        label,
    )
    threat = make_threat("l2", 0.5)
    built = cw_l2(threat, 300, 9, 0.01, 1e-3, confidence=0.0, bounded=False)
    ours = attacked(built, image, label)
    assert success.all() and fooled(ours, label).all()
    reference = np.asarray(threat.distance(theirs, image))
    distance = np.asarray(threat.distance(ours, image))
    assert (distance <= 1.05 * reference).all()


@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_deepfool_is_as_close_as_foolbox(norm):
    foolbox = pytest.importorskip("foolbox")
    image, label = data(64)
    kind = {"linf": "LinfDeepFoolAttack", "l2": "L2DeepFoolAttack"}[norm]
    attack = getattr(foolbox.attacks, kind)(steps=50, candidates=CLASSES)
    theirs, success = foolbox_run(attack, image, label)
    threat = make_threat(norm, 0.5)
    built = deepfool(threat, 50, 0.02, CLASSES - 1, bounded=False)
    ours = attacked(built, image, label)
    assert fooled(ours, label).mean() == success.mean() > 0.9
    medians = [np.median(threat.distance(x, image)) for x in (ours, theirs)]
    assert abs(medians[0] / medians[1] - 1) < 0.1
