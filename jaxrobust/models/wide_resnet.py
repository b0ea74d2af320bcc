"""Wide residual networks, the strongest architecture of published robust training."""

from collections.abc import Sequence

from jaxrobust.errors import UserError
from jaxrobust.models.layers import Layers, floats
from jaxrobust.models.preact_resnet import PreActResNet


def wide_resnet(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    depth: int = 28,
    width: int = 10,
    activation: str = "relu",
    norm: str = "batch",
    momentum: float = 0.9,
    dtype: str = "float32",
    conv: str = "auto",
    padding: str = "both",
    remat: bool = False,
    bn_groups: int = 1,
) -> PreActResNet:
    """WRN-depth-width: three stages of (depth - 4) / 6 pre-activation blocks.

    For 10 classes 28-10 has 36.48M parameters, 34-10 46.16M and 70-16 266.80M. Gowal et
    al. and Wang et al. use `activation="swish", momentum=0.99, padding="end"`.

    Ref: Zagoruyko and Komodakis, arXiv:1605.07146; Gowal et al., arXiv:2010.03593.
    """
    if depth < 10 or (depth - 4) % 6:
        raise UserError(
            f"depth {depth} of wide_resnet: use 6 n + 4, such as 16, 28, 34, 70"
        )
    layers = Layers(
        dtype, activation, norm, conv, momentum, padding=padding, bn_groups=bn_groups
    )
    return PreActResNet(
        num_classes,
        floats(mean),
        floats(std),
        layers,
        stem=16,
        widths=(16 * width, 32 * width, 64 * width),
        blocks=(depth - 4) // 6,
        shortcut=1,
        raw_shortcut=False,
        last_norm=True,
        remat=remat,
    )
