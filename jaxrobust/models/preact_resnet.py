"""Pre-activation ResNet-18 for small images."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from jaxrobust.errors import UserError
from jaxrobust.models.layers import Layers, classify, floats, normalise


class PreActBlock(nn.Module):
    """x' + conv(act(norm(conv(h)))) with h = act(norm(x)).

    x' is conv1x1(h) or, with `shortcut` 3, conv3x3(x) where the shape changes, else x.
    """

    features: int
    stride: int
    shortcut: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B,H,W,C] -> [B,H/stride,W/stride,features]."""
        make, norm = self.layers.convolution, self.layers.normalisation
        h = self.layers.act(norm(train, "norm1")(x))
        y = make(self.features, 3, self.stride, "conv1")(h)
        y = self.layers.act(norm(train, "norm2")(y))
        y = make(self.features, 3, 1, "conv2")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            source = h if self.shortcut == 1 else x
            x = make(self.features, self.shortcut, self.stride, "shortcut")(source)
        return x + y


class PreActResNet(nn.Module):
    """A stem, stages of pre-activation blocks, a last normalisation, a mean."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: Layers
    stem: int
    widths: tuple[int, ...]
    blocks: int
    shortcut: int

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """f32[B,H,W,C] pixels in [0,1] -> f32[B,K] logits."""
        x = normalise(image, self.mean, self.std, self.layers.dtype)
        x = self.layers.convolution(self.stem, 3, 1, "conv1")(x)
        for i, width in enumerate(self.widths):
            for j in range(self.blocks):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"layer{i + 1}_{j}"
                block = PreActBlock(
                    width, stride, self.shortcut, self.layers, name=name
                )
                x = block(x, train)
        x = self.layers.act(self.layers.normalisation(train, "norm")(x))
        return classify(self, x.mean((1, 2)), self.num_classes)


def preact_resnet18(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 64,
    activation: str = "relu",
    shortcut: int = 1,
    norm: str = "batch",
    momentum: float = 0.9,
    dtype: str = "float32",
    conv: str = "auto",
) -> PreActResNet:
    """PreActResNet-18: 11.17M parameters for 10 classes, 12.55M with `shortcut=3`.

    `shortcut=3, activation="swish", momentum=0.99` is the net of Gowal et al. and of
    Rebuffi et al. (a 3x3 convolution of the raw input where the shape changes).

    Ref: He et al., arXiv:1603.05027; Gowal et al., arXiv:2010.03593, appendix.
    Deviates: pads 1 on both sides at stride 2 as PyTorch nets do; theirs pads (0, 1).
    """
    if shortcut not in (1, 3):
        raise UserError(
            f"shortcut is the size of a convolution, 1 or 3, not {shortcut}"
        )
    layers = Layers(dtype, activation, norm, conv, momentum)
    widths = tuple(width * 2**i for i in range(4))
    return PreActResNet(
        num_classes, floats(mean), floats(std), layers, width, widths, 2, shortcut
    )
