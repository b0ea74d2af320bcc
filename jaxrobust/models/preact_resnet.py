"""Pre-activation ResNet-18 for small images."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.layers import Layers, block, classify, floats, normalise

SHORTCUT_INPUTS = ("auto", "activated", "raw")


class PreActBlock(nn.Module):
    """x' + conv(act(norm(conv(h)))) with h = act(norm(x)).

    Where the shape changes x' is a convolution, of size `shortcut`, of h or, with
    `raw_shortcut`, of x; elsewhere it is x.
    """

    features: int
    stride: int
    shortcut: int
    layers: Layers
    raw_shortcut: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B,H,W,C] -> [B,H/stride,W/stride,features]."""
        make, norm = self.layers.convolution, self.layers.normalisation
        h = self.layers.act(norm(train, "norm1")(x))
        y = make(self.features, 3, self.stride, "conv1")(h)
        y = self.layers.act(norm(train, "norm2")(y))
        y = make(self.features, 3, 1, "conv2")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            source = x if self.raw_shortcut else h
            x = make(self.features, self.shortcut, self.stride, "shortcut")(source)
        return x + y


class PreActResNet(nn.Module):
    """A stem, stages of pre-activation blocks, a last normalisation and activation
    (unless `last_norm` is off), a mean."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: Layers
    stem: int
    widths: tuple[int, ...]
    blocks: int
    shortcut: int
    raw_shortcut: bool
    last_norm: bool
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """f32[B,H,W,C] pixels in [0,1] -> f32[B,K] logits."""
        x = normalise(image, self.mean, self.std, self.layers.dtype)
        x = self.layers.convolution(self.stem, 3, 1, "conv1")(x)
        make = block(PreActBlock, self.remat)
        for i, width in enumerate(self.widths):
            for j in range(self.blocks):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"layer{i + 1}_{j}"
                given = width, stride, self.shortcut, self.layers, self.raw_shortcut
                x = make(*given, name=name)(x, train)
        if self.last_norm:
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
    shortcut_input: str = "auto",
    last_norm: bool = True,
    padding: str = "both",
    remat: bool = False,
    bn_groups: int = 1,
) -> PreActResNet:
    """PreActResNet-18: 11.17M parameters for 10 classes, 12.55M with `shortcut=3`.

    `shortcut_input` is what the shortcut's convolution sees: "activated", act(norm(x)),
    or "raw", x; "auto" is activated for size 1 and raw for size 3. Published nets:

        the paper, Rice et al. L2     the defaults
        Wong et al., Fast is Better   shortcut_input="raw", last_norm=False
        Gowal et al., Rebuffi et al.  shortcut=3, activation="swish", momentum=0.99,
                                      padding="end"

    Ref: He et al., arXiv:1603.05027; Gowal et al., arXiv:2010.03593, appendix.
    """
    if shortcut not in (1, 3):
        raise UserError(
            f"shortcut is the size of a convolution, 1 or 3, not {shortcut}"
        )
    if shortcut_input not in SHORTCUT_INPUTS:
        raise unknown_name("shortcut_input", shortcut_input, SHORTCUT_INPUTS)
    raw = shortcut == 3 if shortcut_input == "auto" else shortcut_input == "raw"
    layers = Layers(
        dtype, activation, norm, conv, momentum, padding=padding, bn_groups=bn_groups
    )
    return PreActResNet(
        num_classes,
        floats(mean),
        floats(std),
        layers,
        stem=width,
        widths=tuple(width * 2**i for i in range(4)),
        blocks=2,
        shortcut=shortcut,
        raw_shortcut=raw,
        last_norm=last_norm,
        remat=remat,
    )
