"""The same training steps in PyTorch, in several forms.

`channels_last`, `eager` (contiguous) and `compiled` (channels_last, `torch.compile`)
take the gradient by the images alone; `usual` is `eager` with the attack written as the
papers' released code has it: `loss.backward()`, which makes the gradients of all
weights too. For GPUs the same in other arithmetic: `tf32`, and `bf16` under autocast
(channels_last; `usual_bf16` contiguous). Plain SGD in all.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
    STEP_SIZE,
    WEIGHT_DECAY,
)
from tests.bench.torch_nets import NETS


class Form(NamedTuple):
    """How the step is written and computed."""

    channels_last: bool
    compiled: bool = False
    wasteful: bool = False
    half: bool = False
    tf32: bool = False

    @property
    def layout(self) -> torch.memory_format:
        """Of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def precision(self, device: str) -> AbstractContextManager:
        """Where the forward passes belong."""
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        return torch.autocast(device, torch.bfloat16) if self.half else nullcontext()


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


def make_net(name: str, threads: int, form: str) -> tuple[nn.Module, Form, str]:
    """(a fresh network, its form, its device: a GPU if there is one)."""
    torch.set_num_threads(threads)
    how, device = FORMS[form], "cuda" if torch.cuda.is_available() else "cpu"
    return NETS[name]().to(device, memory_format=how.layout), how, device


def make_runner(
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    chunk: int,
    threads: int,
    form: str = "channels_last",
    method: str = "pgd_at",
    keep: float = 1.0,
) -> Callable[[], float]:
    """A function that trains `chunk` steps on one batch u8[B,H,W,C]; with `keep` below
    1 on that share of the attacked images, those of largest loss."""
    net, how, device = make_net(name, threads, form)
    net.train()
    optimiser = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, MOMENTUM, 0.0, WEIGHT_DECAY, nesterov=True
    )
    run_net = torch.compile(net) if how.compiled else net
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(device)
    target = torch.from_numpy(label).long().to(device)
    attack, objective = METHODS[method]

    def run() -> float:
        for _ in range(chunk):
            x, y = pixels.float().div(255).contiguous(memory_format=how.layout), target
            with how.precision(device):
                adv = attack(run_net, x, y, wasteful=how.wasteful)
                if keep < 1:
                    rows = _hardest(run_net, adv, y, keep)
                    x, adv, y = x[rows], adv[rows], y[rows]
                optimiser.zero_grad(set_to_none=True)
                loss = objective(run_net, x, adv, y)
            loss.backward()
            optimiser.step()
        return loss.item()

    return run


@torch.no_grad()
def _hardest(net, adv, target, keep: float):
    loss = F.cross_entropy(net(adv), target, reduction="none")
    return loss.topk(int(keep * len(loss))).indices


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
