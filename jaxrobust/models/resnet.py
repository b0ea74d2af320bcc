"""Post-activation residual networks for small images."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from jaxrobust.models.layers import Layers, block, classify, floats, normalise


class Block(nn.Module):
    """act(x' + norm(conv(act(norm(conv(x)))))).

    x' is norm(conv1x1(x)) where the shape changes, else x.
    """

    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B,H,W,C] -> [B,H/stride,W/stride,features]."""
        make, norm = self.layers.convolution, self.layers.normalisation
        y = make(self.features, 3, self.stride, "conv1")(x)
        y = self.layers.act(norm(train, "norm1")(y))
        y = make(self.features, 3, 1, "conv2")(y)
        y = norm(train, "norm2")(y)
        if y.shape != x.shape:
            x = make(self.features, 1, self.stride, "shortcut_conv")(x)
            x = norm(train, "shortcut_norm")(x)
        return self.layers.act(x + y)


class ResNet(nn.Module):
    """A 3x3 stem, stages that halve the image and double the width, a mean."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: Layers
    stages: tuple[int, ...]
    width: int
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """f32[B,H,W,C] pixels in [0,1] -> f32[B,K] logits."""
        x = normalise(image, self.mean, self.std, self.layers.dtype)
        x = self.layers.convolution(self.width, 3, 1, "conv1")(x)
        x = self.layers.act(self.layers.normalisation(train, "norm1")(x))
        make = block(Block, self.remat)
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"layer{i + 1}_{j}"
                x = make(self.width * 2**i, stride, self.layers, name=name)(x, train)
        return classify(self, x.mean((1, 2)), self.num_classes)


def resnet18(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 64,
    activation: str = "relu",
    norm: str = "batch",
    momentum: float = 0.9,
    dtype: str = "float32",
    conv: str = "auto",
    remat: bool = False,
    bn_groups: int = 1,
) -> ResNet:
    """ResNet-18 with a CIFAR stem: 11,173,962 parameters for 10 classes.

    Names and paddings follow the PyTorch net used by RobustBench and AutoAttack, so its
    weights carry over: conv OIHW -> HWIO, linear transposed. `momentum` is what the
    running statistics keep at each step (PyTorch's is 1 - momentum). `remat` keeps no
    activations inside of blocks; `bn_groups` parts of a batch have statistics of their
    own.

    Ref: He et al., arXiv:1512.03385.
    Deviates: running variances are biased (PyTorch's are multiplied by n / (n - 1)).
    """
    layers = Layers(dtype, activation, norm, conv, momentum, bn_groups=bn_groups)
    stages = (2, 2, 2, 2)
    return ResNet(num_classes, floats(mean), floats(std), layers, stages, width, remat)


def resnet20(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 16,
    activation: str = "relu",
    norm: str = "batch",
    momentum: float = 0.9,
    dtype: str = "float32",
    conv: str = "auto",
    remat: bool = False,
    bn_groups: int = 1,
) -> ResNet:
    """ResNet-20: three stages of three blocks, 272,474 parameters for 10 classes.

    Ref: He et al., arXiv:1512.03385, section 4.2.
    Deviates: a shortcut that changes shape is a 1x1 convolution with normalisation
    (option B), where the paper pads with zeros on CIFAR (option A).
    """
    layers = Layers(dtype, activation, norm, conv, momentum, bn_groups=bn_groups)
    stages = (3, 3, 3)
    return ResNet(num_classes, floats(mean), floats(std), layers, stages, width, remat)
