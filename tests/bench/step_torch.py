"""The same training steps in PyTorch, in several forms.

`channels_last`, `eager` (contiguous) and `compiled` (channels_last, `torch.compile`)
take the gradient by the images alone; `usual` is `eager` with the attack written as the
papers' released code has it: `loss.backward()`, which makes the gradients of all
weights too. For GPUs the same in other arithmetic: `tf32`, and `bf16` under autocast
(channels_last; `usual_bf16` contiguous). Plain SGD in all.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

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
    "tiny": lambda: convnet(8, 2),
    "wrn28_10": lambda: wide_resnet(28, 10),
    "wrn28_2": lambda: wide_resnet(28, 2),
}


class Form(NamedTuple):
    """How the step is written and computed."""

    channels_last: bool
    compiled: bool = False
    wasteful: bool = False
    half: bool = False
    tf32: bool = False


FORMS = {
    "eager": Form(False),
    "channels_last": Form(True),
    "compiled": Form(True, compiled=True),
    "usual": Form(False, wasteful=True),
    "tf32": Form(True, tf32=True),
    "bf16": Form(True, half=True, tf32=True),
    "compiled_bf16": Form(True, compiled=True, half=True, tf32=True),
    "usual_bf16": Form(False, wasteful=True, half=True, tf32=True),
}


def make_runner(
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    chunk: int,
    threads: int,
    form: str = "channels_last",
    method: str = "pgd_at",
) -> Callable[[], float]:
    """A function that trains `chunk` steps on one batch u8[B,H,W,C], on a GPU if there
    is one."""
    torch.set_num_threads(threads)
    how, device = FORMS[form], "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    net = NETS[name]().to(device, memory_format=layout).train()
    optimiser = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, MOMENTUM, 0.0, WEIGHT_DECAY, nesterov=True
    )
    run_net = torch.compile(net) if how.compiled else net
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(device)
    target = torch.from_numpy(label).long().to(device)
    attack, objective = METHODS[method]

    def run() -> float:
        torch.backends.cuda.matmul.allow_tf32 = how.tf32
        torch.backends.cudnn.allow_tf32 = how.tf32
        half = torch.autocast(device, torch.bfloat16) if how.half else nullcontext()
        for _ in range(chunk):
            x = pixels.float().div(255).contiguous(memory_format=layout)
            with half:
                adv = attack(run_net, x, target, wasteful=how.wasteful)
                optimiser.zero_grad(set_to_none=True)
                loss = objective(run_net, x, adv, target)
            loss.backward()
            optimiser.step()
        return loss.item()

    return run


def _slope(loss, adv, wasteful: bool):
    if wasteful:
        loss.backward()
        return adv.grad
    return torch.autograd.grad(loss, adv)[0]


def _climb(x, start, num_steps: int, loss_of, wasteful: bool):
    """PGD from `start`, up `loss_of`."""
    adv = start
    for _ in range(num_steps):
        adv = adv.detach().requires_grad_(True)
        slope = _slope(loss_of(adv), adv, wasteful)
        with torch.no_grad():
            adv = adv + STEP_SIZE * slope.sign()
            adv = torch.clamp(x + (adv - x).clamp_(-EPS, EPS), 0, 1)
    return adv


def _pgd(net, x, target, wasteful: bool):
    start = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp_(0, 1)
    loss_of = lambda adv: F.cross_entropy(net(adv), target, reduction="sum")
    return _climb(x, start, NUM_STEPS, loss_of, wasteful)


def _trades(net, x, target, wasteful: bool):
    with torch.no_grad():
        clean = F.softmax(net(x), dim=1)
    start = (x + 0.001 * torch.randn_like(x)).clamp_(0, 1)

    def loss_of(adv):
        return F.kl_div(F.log_softmax(net(adv), dim=1), clean, reduction="sum")

    return _climb(x, start, NUM_STEPS, loss_of, wasteful)


def _nfgsm(net, x, target, wasteful: bool):
    noisy = (x + torch.empty_like(x).uniform_(-2 * EPS, 2 * EPS)).clamp_(0, 1)
    noisy.requires_grad_(True)
    loss = F.cross_entropy(net(noisy), target, reduction="sum")
    slope = _slope(loss, noisy, wasteful)
    return (noisy.detach() + EPS * slope.sign()).clamp_(0, 1)


def _on_attacked(net, x, adv, target):
    return F.cross_entropy(net(adv), target)


def _both(net, x, adv, target):
    clean, moved = net(x), net(adv)
    kl = F.kl_div(
        F.log_softmax(moved, dim=1), F.softmax(clean, dim=1), reduction="batchmean"
    )
    return F.cross_entropy(clean, target) + 6.0 * kl


METHODS = {
    "pgd_at": (_pgd, _on_attacked),
    "trades": (_trades, _both),
    "nfgsm": (_nfgsm, _on_attacked),
}
