"""The same PGD-10 training step in PyTorch, written to be as fast as eager PyTorch is.

channels_last, `autograd.grad` with respect to the images alone (no wasted parameter
gradients), fused-free plain SGD. `torch.compile` is no faster here (README.md).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.bench.step_jax import (
    EPS,
    LEARNING_RATE,
    MOMENTUM,
    NUM_STEPS,
    STATISTICS,
    STEP_SIZE,
    WEIGHT_DECAY,
)


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
}


def make_runner(
    name: str, image: np.ndarray, label: np.ndarray, chunk: int, threads: int
) -> Callable[[], float]:
    """A function that trains `chunk` steps on one batch u8[B,H,W,C]."""
    torch.set_num_threads(threads)
    net = NETS[name]().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, MOMENTUM, 0.0, WEIGHT_DECAY, nesterov=True
    )
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2)
    target = torch.from_numpy(label).long()

    def attack(x):
        adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp_(0, 1)
        for _ in range(NUM_STEPS):
            adv.requires_grad_(True)
            loss = F.cross_entropy(net(adv), target, reduction="sum")
            (slope,) = torch.autograd.grad(loss, adv)
            with torch.no_grad():
                adv = adv + STEP_SIZE * slope.sign()
                adv = torch.clamp(x + (adv - x).clamp_(-EPS, EPS), 0, 1)
        return adv

    def run() -> float:
        for _ in range(chunk):
            x = pixels.float().div(255).contiguous(memory_format=torch.channels_last)
            adv = attack(x)
            optimiser.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(adv), target)
            loss.backward()
            optimiser.step()
        return loss.item()

    return run
