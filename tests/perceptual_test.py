"""LPIPS on frozen networks of ours: what is looked at, its length and its slope."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import adversarial
from jaxrobust import data, sharding
from jaxrobust.attacks.fast_lagrangian import feature_distance
from jaxrobust.errors import UserError
from jaxrobust.finished import open_run
from jaxrobust.models import MODELS
from jaxrobust.perceptual import block_features, build_perceptual, unit_features
from jaxrobust.tasks.networks import load_network
from jaxrobust.tasks.setup import build_model
from jaxrobust.tasks.train import train
from jaxrobust.tree import plain
from tests import helpers

SHAPE = (8, 8, 2)
IMAGE, OTHER = (helpers.random_images(4, seed, SHAPE) for seed in (0, 1))
COMMON = {"num_classes": 3, "mean": (0.4, 0.5), "std": (0.2, 0.25)}
SMALL = {
    "convnet": {"widths": (4, 6), "norm": "batch", "head": "mean", "pool": "stride"},
    "resnet18": {"width": 2},
    "wide_resnet": {"depth": 10, "width": 1},
}
LAYERS = {
    "convnet": ("norm0", "norm1"),
    "resnet18": ("layer1_1", "layer2_1", "layer3_1", "layer4_1"),
    "wide_resnet": ("layer1_0", "layer2_0", "layer3_0"),
}
EVERY = pytest.mark.parametrize("name", sorted(SMALL))


def reference(layers):
    """phi in plain loops."""
    rows = []
    for row in range(len(layers[0])):
        parts = []
        for layer in layers:
            _, height, width, _ = layer.shape
            for y in range(height):
                for x in range(width):
                    vector = np.asarray(layer[row, y, x], np.float64)
                    length = np.linalg.norm(vector)
                    unit = vector / length if length > 0 else vector
                    parts.append(unit / np.sqrt(height * width))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


@cache
def network(name):
    model = MODELS[name](**COMMON, **SMALL[name])
    return model, helpers.variables_of(model, shape=SHAPE)


@cache
def looked_at(name):
    """(phi of `IMAGE`, captured outputs of all modules, the embedding)."""
    model, variables = network(name)
    features = jax.jit(block_features(model, variables))

    @jax.jit
    def capture(x):
        kept = model.apply(
            variables,
            x,
            train=False,
            mutable=["intermediates"],
            capture_intermediates=True,
        )[1]["intermediates"]
        outputs = {k: kept[k]["__call__"][0] for k in LAYERS[name]}
        return outputs, kept["embedding"][0]

    return features(IMAGE), *capture(IMAGE)


def test_unit_features_are_units_over_the_root_of_positions():
    draw = np.random.default_rng(0)
    layers = [draw.normal(size=(3, 4, 2, 5)), draw.normal(size=(3, 1, 1, 7))]
    layers = [layer.astype(np.float32) for layer in layers]
    phi = np.asarray(unit_features(layers))
    np.testing.assert_allclose(phi, reference(layers), atol=1e-6)
    np.testing.assert_allclose((phi**2).sum(1), 2.0, rtol=1e-5)
    layers[1][:] = 0
    dead = np.asarray(unit_features(layers))
    np.testing.assert_allclose((dead**2).sum(1), 1.0, rtol=1e-5)
    slope = jax.grad(lambda a: jnp.sum(unit_features([jax.nn.relu(a)])))(layers[1])
    assert np.all(np.isfinite(slope))


def test_the_scale_of_a_layer_is_not_seen():
    layer = helpers.random_images(2, shape=(3, 3, 4)) + 0.1
    scale = np.float32((1e-3, 1e3))[:, None, None, None]
    np.testing.assert_allclose(
        unit_features([layer * scale]), unit_features([layer]), rtol=1e-4
    )


@EVERY
def test_features_are_those_of_the_blocks(name):
    phi, outputs, _ = looked_at(name)
    act = (lambda x: np.maximum(x, 0)) if name == "convnet" else np.asarray
    expected = reference([act(outputs[layer]) for layer in LAYERS[name]])
    np.testing.assert_allclose(phi, expected, atol=1e-5)
    assert np.std(phi, axis=0).max() > 1e-3, "images look different"


@pytest.mark.parametrize("name", ("convnet", "resnet18"))
def test_the_last_block_is_what_the_last_layer_averages(name):
    _, outputs, embedding = looked_at(name)
    last = np.asarray(outputs[LAYERS[name][-1]])
    last = np.maximum(last, 0) if name == "convnet" else last
    np.testing.assert_allclose(last.mean((1, 2)), embedding, rtol=1e-4, atol=1e-5)


@EVERY
def test_a_row_does_not_see_its_neighbours(name):
    features = jax.jit(block_features(*network(name)))
    phi, _, _ = looked_at(name)
    np.testing.assert_allclose(features(IMAGE[1:2]), phi[1:2], atol=1e-5)


def distance(features, image, other):
    return feature_distance(features(image), features(other))


def test_distance_is_a_distance():
    features = block_features(*network("convnet"))
    d = jax.jit(partial(distance, features))
    between = np.asarray(d(IMAGE, OTHER))
    phi = np.asarray(features(IMAGE)) - np.asarray(features(OTHER))
    np.testing.assert_allclose(between, np.linalg.norm(phi, axis=1), rtol=1e-4)
    assert np.all(between > 0.01)
    np.testing.assert_array_equal(d(IMAGE, IMAGE), np.zeros(4))
    np.testing.assert_allclose(d(OTHER, IMAGE), between, rtol=1e-5)
    middle = (IMAGE + OTHER) / 2
    assert np.all(between <= np.asarray(d(IMAGE, middle) + d(middle, OTHER)) + 1e-6)


def test_slope_of_the_distance():
    """A smooth activation: differences across the kink of ReLU prove nothing."""
    model = MODELS["convnet"](**COMMON, **SMALL["convnet"], activation="swish")
    features = block_features(model, network("convnet")[1])
    total = jax.jit(lambda x: jnp.sum(distance(features, x, OTHER)))
    slope = np.asarray(jax.grad(total)(IMAGE))
    for seed in range(3):
        step = 1e-2 * (helpers.random_images(4, 10 + seed, SHAPE) - 0.5)
        change = (total(IMAGE + step) - total(IMAGE - step)) / 2
        assert abs(np.sum(slope * step)) > 1e-4
        np.testing.assert_allclose(np.sum(slope * step), change, rtol=0.03, atol=2e-5)
    at_zero = jax.grad(lambda x: jnp.sum(distance(features, x, IMAGE)))
    np.testing.assert_array_equal(at_zero(IMAGE), np.zeros_like(IMAGE))


@pytest.fixture(scope="module")
def run(finished):
    return finished("adversarial")


def of(run, **replaced):
    spec = {"path": str(run), "name": "", "seed": 0, "mean": (), "std": ()}
    return build_perceptual(spec | replaced, build_model)


def test_a_trained_run_is_a_perceptual_network(run):
    opened = open_run(str(run))
    splits, mesh = data.load_splits(**opened.config["data"]), sharding.make_mesh(1)
    image = np.asarray(splits.test.image[:3], np.float32) / 255
    seen = []
    for row in opened.rows[:2]:
        found = load_network(opened, row, splits, mesh, "")
        expected = block_features(found.model, found.variables)(image)
        np.testing.assert_array_equal(of(run, name=row["name"])(image), expected)
        seen.append(expected)
    assert not np.allclose(*seen)
    np.testing.assert_array_equal(of(run)(image), seen[0])


def test_trains_within_a_perceptual_bound(run, tmp_path):
    config = plain(adversarial.get_config("smoke"))
    short = {"num_steps": 3, "chunk_steps": 3, "checkpoint_every_steps": 0}
    config["train"] |= {**short, "probe_every_steps": 0, "keep": "last"}
    network = {"path": str(run), "name": "", "seed": 0, "mean": (), "std": ()}
    attack = {"name": "fast_lagrangian", "loss": "margin", "bound": 0.3}
    attack |= {"num_steps": 2, "attack_wrong": False, "network": network}
    config["methods"]["pgd_at"] |= {"attack": attack, "attack_bn": "running"}
    config["compare"] = ("pgd_at",)
    config["eval"]["attacks"]["lpips"] = attack | {"attack_wrong": True}
    train(config, str(tmp_path / "pat"))
    (row,) = open_run(str(tmp_path / "pat")).rows
    assert row["steps"] == 3 and 0 <= row["lpips_acc"] <= row["clean_acc"] + 0.1


@pytest.mark.parametrize(
    "replaced,message",
    (
        ({"path": ""}, "network.path"),
        ({"path": "nowhere"}, "no config.json in nowhere"),
        ({"path": "nowhere.pt"}, "not a file"),
        ({"name": "standrad / original"}, "did you mean standard / original"),
        ({"seed": 7}, r"its seeds are \[0\]"),
        ({"sed": 7}, "did you mean seed"),
    ),
)
def test_another_network_is_the_users_mistake(run, replaced, message):
    with pytest.raises(UserError, match=message):
        of(run, **replaced)


def test_every_key_is_needed():
    with pytest.raises(UserError, match="seed, mean, std"):
        build_perceptual({"path": "run", "name": ""}, build_model)


def test_a_network_without_blocks_cannot_compare():
    net = helpers.TinyNet()
    with pytest.raises(UserError, match="jaxrobust.models"):
        block_features(net, helpers.variables_of(net))
