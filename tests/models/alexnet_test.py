"""AlexNet's convolutions give the activations of PyTorch, out of its state dicts."""

import jax
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models.alexnet import alexnet
from jaxrobust.tasks.setup import build_model
from tests.helpers import random_images

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
nn = torch.nn

from jaxrobust.perceptual import build_perceptual, unit_features  # noqa: E402

WIDTHS = (4, 6, 8, 6, 5)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {11: 67, 3: 32}
"""An image for each kind of net; 67 leaves pixels over at the edge."""
BOTH = pytest.mark.parametrize("stem", sorted(SIZES))


def theirs(stem):
    """The layers of torchvision's net, or of the one for CIFAR-10, with few channels
    and a linear layer on top."""
    a, b, c, d, e = WIDTHS
    torch.manual_seed(0)
    if stem == 11:
        first, second = nn.Conv2d(3, a, 11, 4, 2), nn.Conv2d(a, b, 5, padding=2)
        pool = lambda: nn.MaxPool2d(3, 2)
    else:
        first, second = nn.Conv2d(3, a, 3, 2, 1), nn.Conv2d(a, b, 3, padding=1)
        pool = lambda: nn.MaxPool2d(2)
    layers = [first, nn.ReLU(), pool(), second, nn.ReLU(), pool()]
    for inputs, outputs in ((b, c), (c, d), (d, e)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    net = nn.Module()
    net.features = nn.Sequential(*layers, pool())
    net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(e, 2))
    return net.eval()


def activations(net, image):
    """What PyTorch's net computes after each ReLU, NHWC."""
    pixels = (image - np.float32(MEAN)) / np.float32(STD)
    x, found = torch.tensor(pixels).permute(0, 3, 1, 2), []
    with torch.no_grad():
        for layer in net.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x.permute(0, 2, 3, 1).numpy())
    return found


def image_for(stem):
    return random_images(2, shape=(SIZES[stem], SIZES[stem], 3))


def loaded(path, **replaced):
    spec = {"path": str(path), "name": "", "seed": 0, "mean": MEAN, "std": STD}
    return build_perceptual(spec | replaced, build_model)


@BOTH
def test_activations_are_those_of_pytorch(stem):
    net, image = theirs(stem), image_for(stem)
    ours = alexnet(MEAN, STD, WIDTHS, stem)
    places = [i for i, x in enumerate(net.features) if isinstance(x, nn.Conv2d)]
    params = {
        f"conv{i}": {
            "kernel": net.features[at].weight.detach().numpy().transpose(2, 3, 1, 0),
            "bias": net.features[at].bias.detach().numpy(),
        }
        for i, at in enumerate(places)
    }
    found, expected = ours.apply({"params": params}, image), activations(net, image)
    assert len(found) == len(expected) == 5
    for a, b in zip(found, expected):
        assert np.std(b) > 1e-3
        np.testing.assert_allclose(a, b, atol=1e-5)


@BOTH
@pytest.mark.parametrize("ending", ("pt", "safetensors"))
def test_a_file_gives_the_features_of_its_network(stem, ending, tmp_path):
    net, image, path = theirs(stem), image_for(stem), tmp_path / f"net.{ending}"
    if ending == "pt":
        prefixed = {f"model.{k}": v for k, v in net.state_dict().items()}
        torch.save({"model": prefixed}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(net.state_dict(), path)
    expected = unit_features(activations(net, image))
    np.testing.assert_allclose(loaded(path)(image), expected, atol=1e-5)
    other = loaded(path, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    assert not np.allclose(other, expected, atol=1e-2)


def test_buffers_of_the_file_are_its_preprocessing(tmp_path):
    net, image = theirs(3), image_for(3)
    net.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
    net.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    expected = unit_features(activations(net, image))
    found = loaded(tmp_path / "net.pt", mean=(), std=())(image)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_foreign_files_are_the_users_mistake(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(theirs(3).state_dict(), path)
    with pytest.raises(UserError, match="does not say its preprocessing"):
        loaded(path, mean=(), std=())
    torch.save({**theirs(3).state_dict(), "features.12.bias": torch.ones(1)}, path)
    with pytest.raises(UserError, match="not those of AlexNet"):
        loaded(path)


def test_what_is_no_alexnet_is_the_users_mistake():
    with pytest.raises(UserError, match="not 5 and 7"):
        alexnet(MEAN, STD, WIDTHS, 7)
    with pytest.raises(UserError, match="not 4 and 3"):
        alexnet(MEAN, STD, WIDTHS[:4], 3)


def test_small_images_are_the_users_mistake():
    model = alexnet(MEAN, STD, WIDTHS, 11)
    with pytest.raises(UserError, match="images of 16x16 are too small"):
        model.init(jax.random.key(0), random_images(1, shape=(16, 16, 3)))
