"""Published parameter counts and shapes; shapes only, nothing is allocated."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import tree
from jaxrobust.errors import UserError
from jaxrobust.models import MODELS

CIFAR = {"num_classes": 10, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def shapes(name, image=(1, 32, 32, 3), **options):
    model = MODELS[name](**(CIFAR | options))
    init = lambda: model.init(jax.random.key(0), jnp.zeros(image), train=False)
    return model, jax.eval_shape(init)


@pytest.mark.parametrize(
    "name,options,expected",
    (
        ("convnet", {}, 320_010),
        ("convnet", {"num_classes": 100}, 504_420),
        ("resnet18", {}, 11_173_962),
        ("resnet20", {}, 272_474),
        ("preact_resnet18", {}, 11_172_170),
        ("preact_resnet18", {"shortcut": 3}, 12_548_426),
        ("wide_resnet", {}, 36_479_194),
        ("wide_resnet", {"depth": 34}, 46_160_474),
        ("wide_resnet", {"depth": 70, "width": 16}, 266_796_506),
    ),
)
def test_parameter_count(name, options, expected):
    assert tree.count(shapes(name, **options)[1]["params"]) == expected


def test_resnet18_is_named_as_in_pytorch():
    params = shapes("resnet18")[1]["params"]
    stages = [f"layer{i}_{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert set(params) == {"conv1", "norm1", "linear", *stages}
    plain = {"conv1", "norm1", "conv2", "norm2"}
    assert set(params["layer1_0"]) == plain
    assert set(params["layer2_0"]) == plain | {"shortcut_conv", "shortcut_norm"}
    assert params["layer2_0"]["shortcut_conv"]["kernel"].shape == (1, 1, 64, 128)
    assert set(params["conv1"]) == {"kernel"}


@pytest.mark.parametrize("size", (8, 28, 32, 33, 64))
@pytest.mark.parametrize("name", ("resnet20", "convnet"))
def test_any_image_size(name, size):
    model, variables = shapes(name, (2, size, size, 3))
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    logits = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False), variables, image
    )
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("norm,stats", (("batch", True), ("instance", False)))
def test_only_batch_norm_keeps_statistics(norm, stats):
    variables = shapes("convnet", norm=norm)[1]
    assert ("batch_stats" in variables) == stats


def test_convnet_embedding_by_pool_and_head():
    def width(**options):
        params = shapes("convnet", (1, 8, 8, 3), widths=(16, 32, 64), **options)[1]
        return params["params"]["linear"]["kernel"].shape[0]

    assert width(pool="avg") == 64
    assert width(pool="stride") == 2 * 2 * 64
    assert width(pool="stride", head="mean") == 64
    assert width(pool="none", head="flatten") == 8 * 8 * 64


@pytest.mark.parametrize(
    "name,options,message",
    (
        ("convnet", {"pool": "max"}, "choose from"),
        ("convnet", {"head": "sum"}, "choose from"),
        ("preact_resnet18", {"shortcut": 2}, "1 or 3"),
        ("preact_resnet18", {"shortcut_input": "x"}, "choose from"),
        ("wide_resnet", {"padding": "SAME"}, "choose from"),
        ("wide_resnet", {"depth": 30}, "6 n"),
    ),
)
def test_impossible_architectures_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        MODELS[name](**(CIFAR | options))


def test_too_many_pools_are_refused():
    with pytest.raises(UserError, match="too small"):
        shapes("convnet", (1, 8, 8, 3), depth=4)
