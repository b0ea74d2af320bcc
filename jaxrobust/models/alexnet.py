"""The convolutions of AlexNet: a network to compare images with, not a classifier."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array

from jaxrobust.errors import UserError
from jaxrobust.models.conv import canonical
from jaxrobust.models.layers import floats, normalise

STEMS = {11: (4, 2, 3, 5), 3: (2, 1, 2, 3)}
"""By kernel of the first convolution: its stride and padding, the window of both
poolings and the kernel of the second convolution."""


class AlexNet(nn.Module):
    """Five convolutions with ReLU; the first two are pooled before the next one."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: tuple[int, ...]
    stem: int

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, ...]:
        """f32[B,H,W,C] pixels in [0,1] -> five activations [B,h,w,width] after ReLU."""
        stride, padding, window, second = STEMS[self.stem]
        kernels, found = (self.stem, second, 3, 3, 3), []
        x = normalise(image, self.mean, self.std, "float32")
        for i, (width, kernel) in enumerate(zip(self.widths, kernels, strict=True)):
            x = nn.relu(
                nn.Conv(
                    width,
                    (kernel, kernel),
                    stride if i == 0 else 1,
                    padding=padding if i == 0 else kernel // 2,
                    conv_general_dilated=_convolution(),
                    name=f"conv{i}",
                )(x)
            )
            found.append(x)
            if i < 2:
                x = nn.max_pool(x, (window, window), (2, 2))
            if 0 in x.shape:
                raise UserError(
                    f"images of {image.shape[1]}x{image.shape[2]} are too small for "
                    f"an AlexNet whose first kernel is {self.stem}x{self.stem}"
                )
        return tuple(found)


def alexnet(
    mean: Sequence[float], std: Sequence[float], widths: Sequence[int], stem: int
) -> AlexNet:
    """AlexNet with the paddings of PyTorch's, for weights that carry over.

    `stem` 11 is torchvision's net, 3 the one for 32x32 images that Laidlaw et al. train
    on CIFAR-10; published `widths` are (64, 192, 384, 256, 256) in both.

    Ref: Krizhevsky, arXiv:1404.5997; Laidlaw et al., arXiv:2006.12655, appendix.
    """
    if stem not in STEMS or len(widths) != 5:
        raise UserError(
            f"AlexNet has five widths and a first kernel of 3 or 11, not "
            f"{len(widths)} and {stem}"
        )
    return AlexNet(floats(mean), floats(std), tuple(widths), stem)


def _convolution():
    return canonical if jax.default_backend() == "cpu" else None
