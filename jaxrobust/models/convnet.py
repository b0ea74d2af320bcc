"""The small ConvNet of the dataset distillation literature, down to 8x8 digits."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.layers import (
    TORCH_UNIFORM,
    Layers,
    average_pool,
    classify,
    floats,
    normalise,
)

POOLS = ("avg", "stride", "none")
HEADS = ("flatten", "mean")


class ConvNet(nn.Module):
    """Blocks of conv3x3 - norm - activation - pool, then one linear layer."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: Layers
    widths: tuple[int, ...]
    pool: str
    head: str

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """f32[B,H,W,C] pixels in [0,1] -> f32[B,K] logits."""
        x = normalise(image, self.mean, self.std, self.layers.dtype)
        for i, width in enumerate(self.widths):
            # With "stride" the first block keeps the resolution, as ResNets do.
            stride = 2 if self.pool == "stride" and i > 0 else 1
            x = self.layers.convolution(width, 3, stride, f"conv{i}", bias=True)(x)
            x = self.layers.act(self.layers.normalisation(train, f"norm{i}")(x))
            if self.pool == "avg":
                x = average_pool(x)
        if 0 in x.shape:
            raise UserError(
                f"images of {image.shape[1]}x{image.shape[2]} are too small for "
                f"{len(self.widths)} pooled blocks: use a smaller depth"
            )
        x = x.reshape(x.shape[0], -1) if self.head == "flatten" else x.mean((1, 2))
        return classify(self, x, self.num_classes)


def convnet(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 128,
    depth: int = 3,
    widths: Sequence[int] = (),
    activation: str = "relu",
    norm: str = "instance",
    pool: str = "avg",
    head: str = "flatten",
    dtype: str = "float32",
    conv: str = "auto",
) -> ConvNet:
    """`depth` blocks of `width` channels, or one block for each number in `widths`.

    The defaults are the net of DC, DSA and MTT for 32x32 images (320,010 parameters for
    10 classes). `pool` is "avg" (2x2 after each block), "stride" (stride 2 in all but
    the first block) or "none"; `head` feeds the linear layer with all positions
    ("flatten") or with their mean ("mean").

    Ref: Zhao et al., Dataset Condensation, arXiv:2006.05929, section 4.1.
    """
    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS)
    if head not in HEADS:
        raise unknown_name("head", head, HEADS)
    return ConvNet(
        num_classes,
        floats(mean),
        floats(std),
        Layers(dtype, activation, norm, conv, kernel_init=TORCH_UNIFORM),
        tuple(widths) or (width,) * depth,
        pool,
        head,
    )
