"""Published PyTorch nets as functions that draw each tensor at its first use.

One description gives a state dict, under the names of the published code, and the
logits: the oracle of what is loaded. Ref: RobustBench's model zoo.
"""

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = 5


class Draw:
    """A state dict that grows as layers are applied."""

    def __init__(self, seed=0):
        self.state = {}
        self.random = np.random.default_rng(seed)

    def tensor(self, key, shape, low, high):
        if key not in self.state:
            values = self.random.uniform(low, high, shape)
            self.state[key] = torch.tensor(values, dtype=torch.float32)
        return self.state[key]

    def conv(self, x, key, outputs, size=3, stride=1, end=False):
        """`end` pads (0, 1) at stride 2, as DeepMind's nets do."""
        shape = (outputs, x.shape[1], size, size)
        spread = (6 / np.prod(shape[1:])) ** 0.5
        weight = self.tensor(f"{key}.weight", shape, -spread, spread)
        if end and stride == 2 and size == 3:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)
        return F.conv2d(x, weight, stride=stride, padding=size // 2)

    def bn(self, x, key):
        size = (x.shape[1],)
        weight = self.tensor(f"{key}.weight", size, 0.5, 1.5)
        bias = self.tensor(f"{key}.bias", size, -0.3, 0.3)
        mean = self.tensor(f"{key}.running_mean", size, -0.3, 0.3)
        var = self.tensor(f"{key}.running_var", size, 0.5, 1.5)
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(3)
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, x, key):
        x = x.mean((2, 3))
        weight = self.tensor(f"{key}.weight", (CLASSES, x.shape[1]), -0.5, 0.5)
        return F.linear(x, weight, self.tensor(f"{key}.bias", (CLASSES,), -0.5, 0.5))


def stages(x, widths, number):
    """(stage, block, width, stride) of all blocks."""
    for stage, width in enumerate(widths):
        for block in range(number):
            yield stage, block, width, 2 if stage and not block else 1


def resnet(net, x, width=4, number=2, depth=4):
    """kuangliu's ResNet-18; 3 stages of 3 blocks are ResNet-20."""
    x = F.relu(net.bn(net.conv(x, "conv1", width), "bn1"))
    widths = [width * 2**i for i in range(depth)]
    for i, j, c, stride in stages(x, widths, number):
        at = f"layer{i + 1}.{j}"
        y = F.relu(net.bn(net.conv(x, f"{at}.conv1", c, 3, stride), f"{at}.bn1"))
        y = net.bn(net.conv(y, f"{at}.conv2", c), f"{at}.bn2")
        if stride == 2:
            x = net.conv(x, f"{at}.shortcut.0", c, 1, 2)
            x = net.bn(x, f"{at}.shortcut.1")
        x = F.relu(x + y)
    return net.linear(x, "linear")


def preact(net, x, raw=False, last_norm=True, width=4):
    """kuangliu's PreActResNet-18: V1 of RobustBench is raw, without a last norm."""
    x = net.conv(x, "conv1", width)
    for i, j, c, stride in stages(x, [width * 2**i for i in range(4)], 2):
        at = f"layer{i + 1}.{j}"
        h = F.relu(net.bn(x, f"{at}.bn1"))
        y = net.conv(h, f"{at}.conv1", c, 3, stride)
        y = net.conv(F.relu(net.bn(y, f"{at}.bn2")), f"{at}.conv2", c)
        if stride == 2:
            x = net.conv(x if raw else h, f"{at}.shortcut.0", c, 1, 2)
        x = x + y
    if last_norm:
        x = F.relu(net.bn(x, "bn"))
    return net.linear(x, "linear")


def preact_deepmind(net, x, width=4):
    """PreActResNet-18 of Gowal et al. and Rebuffi et al."""
    x = net.conv(x, "conv_2d", width)
    for i, j, c, stride in stages(x, [width * 2**i for i in range(4)], 2):
        at = f"layer_{i}.{j}"
        y = F.silu(net.bn(x, f"{at}.batchnorm_0"))
        y = net.conv(y, f"{at}.conv_2d_1", c, 3, stride, end=True)
        y = net.conv(F.silu(net.bn(y, f"{at}.batchnorm_1")), f"{at}.conv_2d_2", c)
        if stride == 2:
            x = net.conv(x, f"{at}.shortcut", c, 3, 2, end=True)
        x = x + y
    return net.linear(F.silu(net.bn(x, "batchnorm")), "logits")


def wide(net, x, width=2, number=1):
    """The wide ResNet of TRADES."""
    x = net.conv(x, "conv1", 16)
    for i, j, c, stride in stages(x, [16 * width * 2**i for i in range(3)], number):
        at = f"block{i + 1}.layer.{j}"
        h = F.relu(net.bn(x, f"{at}.bn1"))
        y = net.conv(h, f"{at}.conv1", c, 3, stride)
        y = net.conv(F.relu(net.bn(y, f"{at}.bn2")), f"{at}.conv2", c)
        if x.shape[1] != c:
            x = net.conv(h, f"{at}.convShortcut", c, 1, stride)
        x = x + y
    return net.linear(F.relu(net.bn(x, "bn1")), "fc")


def wide_deepmind(net, x, width=1, number=2):
    """The wide ResNet of Gowal et al., Rebuffi et al. and Wang et al."""
    x = net.conv(x, "init_conv", 16)
    for i, j, c, stride in stages(x, [16 * width * 2**i for i in range(3)], number):
        at = f"layer.{i}.block.{j}"
        h = F.silu(net.bn(x, f"{at}.batchnorm_0"))
        y = net.conv(h, f"{at}.conv_0", c, 3, stride, end=True)
        y = net.conv(F.silu(net.bn(y, f"{at}.batchnorm_1")), f"{at}.conv_1", c)
        if x.shape[1] != c:
            x = net.conv(h, f"{at}.shortcut", c, 1, stride)
        x = x + y
    return net.linear(F.silu(net.bn(x, "batchnorm")), "logits")
