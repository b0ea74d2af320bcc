"""What the rows without a training step are compared with: the same job as others'
code does it in PyTorch."""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from jaxrobust.interop import export_torch
from tests.bench import step_torch

THEIR_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def device() -> str:
    """Where PyTorch runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_twin(model, variables) -> torch.nn.Module:
    """The same network as a PyTorch module, from its exported files."""
    with tempfile.TemporaryDirectory() as folder:
        export_torch(model, variables, folder)
        path = Path(folder) / "network.py"
        spec = importlib.util.spec_from_file_location("network", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load().to(device())


class Counted(torch.nn.Module):
    """Counts the rows that pass, forwards and (where a gradient is asked) backwards."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        self.backwards += len(x) * bool(x.requires_grad)
        return self.net(x)


def autoattack(net, image, label, norm: str, eps: float, batch: int):
    """(seconds, robust bool[N], passes) of pyautoattack, images f32[N,H,W,C]."""
    from pyautoattack import AutoAttack

    counted, where = Counted(net), device()
    x = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().to(where)
    y = torch.tensor(label).long().to(where)
    attack = AutoAttack(
        counted, norm=THEIR_NORM[norm], eps=eps, version="standard", device=where
    )
    attack.seed = 0
    start = time.perf_counter()
    x_adv = attack.run_standard_evaluation(x, y, batch_size=batch)
    seconds = time.perf_counter() - start
    x_adv = x_adv[0] if isinstance(x_adv, tuple) else x_adv
    with torch.no_grad():
        robust = (net(x_adv).argmax(1) == y).cpu().numpy()
    return seconds, robust, counted.forwards + counted.backwards


@torch.no_grad()
def _draw(net, x, num: int, num_classes: int, sigma: float, batch: int) -> np.ndarray:
    """Counts i64[K] of `num` noisy copies of one image."""
    counts = np.zeros(num_classes, int)
    while num > 0:
        size = min(batch, num)
        num -= size
        copies = x.repeat((size, 1, 1, 1))
        noise = torch.randn_like(copies) * sigma
        for one in net(copies + noise).argmax(1).cpu().numpy():
            counts[one] += 1
    return counts


def certify(
    net, image, sigma: float, n0: int, n: int, num_classes: int, batch: int
) -> np.ndarray:
    """Counts i64[N], among `n`, of the class that `n0` draws select for each image
    f32[N,H,W,C]: one image at a time, `batch` copies at once, counted on the host, as
    github.com/locuslab/smoothing does."""
    x = torch.from_numpy(np.asarray(image)).permute(0, 3, 1, 2).contiguous()
    found, given = [], (num_classes, sigma, batch)
    for one in x.to(device()):
        top = _draw(net, one, n0, *given).argmax()
        found.append(_draw(net, one, n, *given)[top])
    return np.array(found)


def scoring(
    name: str, image: np.ndarray, label: np.ndarray, batch: int, threads: int, form: str
) -> Callable[[], torch.Tensor]:
    """A function that attacks images u8[N,H,W,C] by PGD, takes the losses before and
    after, and returns the places of the half where they are largest."""
    net, how, where = step_torch.make_net(name, threads, form)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(where)
    target = torch.from_numpy(label).long().to(where)
    net.eval()

    def run():
        found = []
        for x, y in zip(pixels.split(batch), target.split(batch), strict=True):
            x = x.float().div(255).contiguous(memory_format=how.layout)
            with how.precision(where):
                adv = step_torch.METHODS["pgd_at"][0](net, x, y, how.wasteful)
                with torch.no_grad():
                    both = [
                        F.cross_entropy(net(z), y, reduction="none") for z in (x, adv)
                    ]
            found.append(both[0] + both[1])
        worst = torch.cat(found)
        return worst.topk(len(worst) // 2).indices.cpu()

    return run
