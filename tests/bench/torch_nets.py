"""The networks of the comparison in PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.bench.step_jax import STATISTICS


class Normalise(nn.Module):
    """(x - mean) / std."""

    def __init__(self):
        super().__init__()
        for name, values in STATISTICS.items():
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class Block(nn.Module):
    """The post-activation residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(stages: tuple[int, ...], width: int) -> nn.Module:
    """The CIFAR ResNet of `jaxrobust.models.resnet`."""
    layers = [
        Normalise(),
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for i, blocks in enumerate(stages):
        for j in range(blocks):
            outputs = width * 2**i
            layers.append(Block(inputs, outputs, 2 if i > 0 and j == 0 else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]
    return nn.Sequential(*layers)


class WideBlock(nn.Module):
    """The pre-activation residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None
        )

    def forward(self, x):
        h = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(h))))
        return y + (x if self.shortcut is None else self.shortcut(h))


def wide_resnet(depth: int, width: int) -> nn.Module:
    """The network of `jaxrobust.models.wide_resnet`."""
    layers, inputs = [Normalise(), nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for i in range(3):
        for j in range((depth - 4) // 6):
            outputs = 16 * width * 2**i
            layers.append(WideBlock(inputs, outputs, 2 if i > 0 and j == 0 else 1))
            inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 10))


def convnet(width: int, depth: int) -> nn.Module:
    """The ConvNet of `jaxrobust.models.convnet`; GroupNorm(C, C) is its usual form."""
    layers, inputs = [Normalise()], 3
    for _ in range(depth):
        layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.GroupNorm(width, width)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
        inputs = width
    size = 32 // 2**depth
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size * size, 10))


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet((2, 2, 2, 2), 64),
    "resnet20": lambda: resnet((3, 3, 3), 16),
    "convnet": lambda: convnet(128, 3),
    "convnet32": lambda: convnet(32, 3),
    "tiny": lambda: convnet(8, 2),
    "wrn28_10": lambda: wide_resnet(28, 10),
    "wrn28_2": lambda: wide_resnet(28, 2),
}
