"""Models start from the distributions that their docstrings name."""

import jax
import numpy as np

from jaxrobust.models import MODELS
from jaxrobust.models.layers import HE_NORMAL, Layers
from jaxrobust.models.resnet import ResNet


def test_resnet_draws_he_normal_by_fan_out():
    layers = Layers("float32", "relu", "batch", "auto", kernel_init=HE_NORMAL)
    model = ResNet(10, (0.5,), (0.25,), layers, (1, 1), 32)
    image = np.zeros((1, 8, 8, 1), np.float32)
    init = jax.jit(lambda key: model.init(key, image, train=False))
    first, second = init(jax.random.key(0)), init(jax.random.key(1))
    block = first["params"]["layer2_0"]
    for name, fan_out in (("conv1", 9 * 64), ("conv2", 9 * 64), ("shortcut_conv", 64)):
        kernel = np.asarray(block[name]["kernel"])
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=0.1)
        assert not np.array_equal(
            kernel, np.asarray(second["params"]["layer2_0"][name]["kernel"])
        )
    np.testing.assert_array_equal(block["norm1"]["scale"], np.ones(64))
    np.testing.assert_array_equal(first["batch_stats"]["norm1"]["mean"], np.zeros(32))
    np.testing.assert_array_equal(first["batch_stats"]["norm1"]["var"], np.ones(32))


def test_convnet_draws_uniform_as_pytorch():
    model = MODELS["convnet"](10, (0.5,), (0.25,), widths=(32, 64))
    image = np.zeros((1, 8, 8, 1), np.float32)
    params = jax.jit(lambda: model.init(jax.random.key(0), image, train=False))()[
        "params"
    ]
    for kernel, fan_in in (
        (params["conv1"]["kernel"], 9 * 32),
        (params["linear"]["kernel"], 2 * 2 * 64),
    ):
        bound = 1 / np.sqrt(fan_in)
        assert np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.05)
