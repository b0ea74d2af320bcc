"""What every model is built of: convolution, norm, activation, pooling, head."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.batch_groups import GroupedBatchNorm
from jaxrobust.models.conv import canonical
from jaxrobust.models.norms import GroupNorm
from jaxrobust.registry import lookup

ACTIVATIONS = {"relu": nn.relu, "swish": nn.swish}
CONVS = ("auto", "canonical", "xla")
DTYPES = ("float32", "bfloat16")
NORMS = ("batch", "instance", "group")
PADDINGS = ("both", "end")

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""std = sqrt(2 / (h w O)), He et al., arXiv:1502.01852, as torchvision's ResNets."""

TORCH_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what PyTorch does unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """The choices that all layers of one model share, and the layers made from them.

    `dtype` is what convolutions and activations are computed in; parameters, statistics
    and logits are float32 whatever it says. `conv` is "canonical" (fast in CPU loops,
    see conv.py), "xla", or "auto": canonical on CPU, XLA elsewhere. `padding` is where
    a convolution of stride 2 pads: "both" sides by kernel // 2 as most PyTorch nets, or
    the "end" only, a 3x3 one by (0, 1), as DeepMind's. `bn_groups` parts of a batch
    have BatchNorm statistics of their own while training (batch_groups.py), 1 for those
    of the whole batch on all devices.
    """

    dtype: str
    activation: str
    norm: str
    conv: str
    momentum: float = 0.9
    groups: int = 8
    kernel_init: Callable = HE_NORMAL
    padding: str = "both"
    bn_groups: int = 1

    def __post_init__(self):
        for kind, name, known in (
            ("dtype", self.dtype, DTYPES),
            ("activation", self.activation, ACTIVATIONS),
            ("norm", self.norm, NORMS),
            ("conv", self.conv, CONVS),
            ("padding", self.padding, PADDINGS),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)

    def act(self, x: Array) -> Array:
        """The activation of this model."""
        return lookup("activation", ACTIVATIONS, self.activation)(x)

    def convolution(
        self, features: int, kernel: int, stride: int, name: str, bias: bool = False
    ) -> nn.Conv:
        """A square convolution, padded by kernel // 2 on both sides as in PyTorch.

        XLA's "SAME" pads (0, 1) at stride 2, so weights would not carry over; nets that
        were trained so ask for `padding="end"`.
        """
        before = after = kernel // 2
        if self.padding == "end":
            before = max(before - (stride - 1), 0)
        canonically = self.conv == "canonical" or (
            self.conv == "auto" and jax.default_backend() == "cpu"
        )
        return nn.Conv(
            features,
            (kernel, kernel),
            (stride, stride),
            padding=((before, after),) * 2,
            use_bias=bias,
            dtype=jnp.dtype(self.dtype),
            kernel_init=self.kernel_init,
            conv_general_dilated=canonical if canonically else None,
            name=name,
        )

    def normalisation(self, train: bool, name: str) -> nn.Module:
        """Batch statistics while training, or statistics of each image (and group)."""
        dtype = jnp.dtype(self.dtype)
        if self.norm == "batch":
            given = {"momentum": self.momentum, "epsilon": 1e-5, "dtype": dtype}
            given |= {"use_running_average": not train, "name": name}
            if train and self.bn_groups != 1:
                return GroupedBatchNorm(bn_groups=self.bn_groups, **given)
            return nn.BatchNorm(**given)
        groups = self.groups if self.norm == "group" else 0
        return GroupNorm(groups, epsilon=1e-5, dtype=dtype, name=name)


def block(kind: type[nn.Module], remat: bool) -> type[nn.Module]:
    """A block called as (x, train), as it is or, with `remat`, one of which the input
    alone is kept: what lies within is computed again on the way back. Each gradient,
    those of the attack too, then takes up to one forward pass more. (XLA:CPU gains no
    memory by it: it computes again at a time of its own choice.)"""
    return nn.remat(kind, static_argnums=(2,)) if remat else kind


def normalise(image: Array, mean: Sequence[float], std: Sequence[float], dtype: str):
    """(image - mean) / std by channel: f32[B,H,W,C] in [0,1] -> dtype[B,H,W,C]."""
    if not len(mean) == len(std) == image.shape[-1]:
        raise UserError(
            f"mean and std have {len(mean)} and {len(std)} numbers but images have "
            f"{image.shape[-1]} channels: give one number for each channel"
        )
    by_channel = lambda values: jnp.asarray(values, image.dtype).reshape(1, 1, 1, -1)
    return ((image - by_channel(mean)) / by_channel(std)).astype(dtype)


def average_pool(x: Array, size: int = 2) -> Array:
    """The mean over size x size blocks; a remainder at the edge is dropped.

    A sum of slices, which XLA:CPU fuses with the layers around it; a mean over axes of
    the reshaped image takes three times as long.
    """
    b, h, w, c = x.shape
    h, w = h // size, w // size
    rows = x[:, : h * size, : w * size].reshape(b, h, size, w * size, c)
    rows = reduce(jnp.add, [rows[:, :, i] for i in range(size)])
    blocks = rows.reshape(b, h, w, size, c)
    return reduce(jnp.add, [blocks[:, :, :, i] for i in range(size)]) / size**2


def classify(module: nn.Module, embedding: Array, num_classes: int) -> Array:
    """The last layer of every model: [B,D] -> f32[B,K], computed in float32.

    `embedding` can be read through `apply(..., mutable=["intermediates"])`; the layer
    is called `linear` in every model, so last-layer gradients need not know which.
    """
    embedding = embedding.astype(jnp.float32)
    if not module.is_initializing():
        module.sow("intermediates", "embedding", embedding)
    return nn.Dense(num_classes, kernel_init=TORCH_UNIFORM, name="linear")(embedding)


def floats(values: Sequence[float]) -> tuple[float, ...]:
    """A hashable tuple of numbers, out of whatever sequence a config holds."""
    return tuple(float(value) for value in values)
