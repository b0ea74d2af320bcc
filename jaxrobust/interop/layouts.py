"""How families of PyTorch nets name their modules, and which family a net is of.

Ref: names and shapes as in RobustBench's model zoo (kuangliu's pytorch-cifar, TRADES,
DeepMind's adversarial_robustness and the nets derived from them).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from jaxrobust.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

BLOCKS_OF = {(2, 2, 2, 2): "resnet18", (3, 3, 3): "resnet20"}
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""Our names of arrays and PyTorch's."""


@dataclass(frozen=True)
class Layout:
    """Names of one family: `outer` modules, a pattern of `block`, modules in `inner`.

    A module that is not listed has the same name on both sides. `optional` begins the
    names of tensors that exist in checkpoints but take no part in the forward pass.
    """

    block: str
    outer: Mapping[str, str] = field(default_factory=dict)
    inner: Mapping[str, str] = field(default_factory=dict)
    first_stage: int = 1
    optional: tuple[str, ...] = ()

    def place(self, stage: int, block: int) -> str:
        """The name of block `block` of stage `stage`, both counted from 0."""
        return self.block.format(stage + self.first_stage, block)

    def key(self, path: tuple[str, ...]) -> str:
        """PyTorch's name of our array ("layer2_0", "conv1", "kernel")."""
        *modules, leaf = path
        if len(modules) == 1:
            name = self.outer.get(modules[0], modules[0])
        else:
            stage, block = modules[0].removeprefix("layer").split("_")
            inner = self.inner.get(modules[1], modules[1])
            name = f"{self.place(int(stage) - 1, int(block))}.{inner}"
        return f"{name}.{LEAVES[leaf]}"


_KUANGLIU = {"norm1": "bn1", "norm2": "bn2"}
_DEEPMIND = {"norm1": "batchnorm_0", "norm2": "batchnorm_1"}
_DEEPMIND_ENDS = {"norm": "batchnorm", "linear": "logits"}

LAYOUTS = {
    "resnet": Layout(
        "layer{}.{}",
        {"norm1": "bn1"},
        _KUANGLIU | {"shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1"},
    ),
    "preact": Layout(
        "layer{}.{}", {"norm": "bn"}, _KUANGLIU | {"shortcut": "shortcut.0"}
    ),
    "preact_deepmind": Layout(
        "layer_{}.{}",
        _DEEPMIND_ENDS | {"conv1": "conv_2d"},
        _DEEPMIND | {"conv1": "conv_2d_1", "conv2": "conv_2d_2"},
        first_stage=0,
    ),
    "wide": Layout(
        "block{}.layer.{}",
        {"norm": "bn1", "linear": "fc"},
        _KUANGLIU | {"shortcut": "convShortcut"},
        optional=("sub_block1.",),
    ),
    "wide_deepmind": Layout(
        "layer.{}.block.{}",
        _DEEPMIND_ENDS | {"conv1": "init_conv"},
        _DEEPMIND | {"conv1": "conv_0", "conv2": "conv_1"},
        first_stage=0,
    ),
    "convnet": Layout(""),
}
EXPORTED = {
    "convnet": "convnet",
    "resnet18": "resnet",
    "resnet20": "resnet",
    "preact_resnet18": "preact",
    "wide_resnet": "wide",
}
"""The layout that each of our models is written in."""


def recognise(shapes: Shapes) -> str:
    """The name of the layout whose marks these tensors bear; else `UserError`."""
    marks = {
        "wide_deepmind": ("init_conv.weight", "layer.0.block.0.conv_0.weight"),
        "preact_deepmind": ("conv_2d.weight", "layer_0.0.conv_2d_1.weight"),
        "wide": ("conv1.weight", "block1.layer.0.conv1.weight"),
        "resnet": ("bn1.weight", "layer1.0.conv2.weight", "linear.weight"),
        "preact": ("conv1.weight", "layer1.0.conv2.weight", "linear.weight"),
        "convnet": ("conv0.weight", "norm0.weight", "linear.weight"),
    }
    for name, keys in marks.items():
        if all(key in shapes for key in keys):
            return name
    raise UserError(
        f"unknown network, its tensors begin {some(shapes)}: load it in PyTorch and "
        "wrap it with interop.from_torch"
    )


def describe(name: str, shapes: Shapes) -> dict[str, Any]:
    """The model spec that `shapes` of layout `name` tell, without mean and std.

    What shapes cannot tell is what the published nets of that family have: ReLU, and
    swish for DeepMind's; the shortcut of a PreActResNet sees the activated input, the
    raw one if there is no last normalisation.
    """
    layout = LAYOUTS[name]
    ends = {end: layout.key((end, "kernel")) for end in ("conv1", "linear")}
    if name == "convnet":
        ends["conv1"] = "conv0.weight"
    stem, linear = shapes[ends["conv1"]], shapes.get(ends["linear"])
    if linear is None or len(linear) != 2 or len(stem) != 4:
        raise UserError(f"the state dict lacks a sound {ends['linear']}")
    blocks = _blocks(layout, shapes)
    spec: dict[str, Any] = {"num_classes": linear[0], "norm": "batch"}
    if name == "convnet":
        widths = [f"conv{i}.weight" for i in range(len(shapes))]
        widths = [shapes[key][0] for key in widths if key in shapes]
        return spec | {"name": "convnet", "activation": "relu", "widths": widths}
    spec["activation"] = "relu"
    if name.endswith("deepmind"):
        spec |= {"activation": "swish", "momentum": 0.99, "padding": "end"}
    if name == "resnet":
        return spec | {"name": _resnet(blocks), "width": stem[0]}
    if name.startswith("wide"):
        return spec | {"name": "wide_resnet"} | _wide(layout, blocks, shapes)
    if blocks != (2, 2, 2, 2):
        raise UserError(
            f"a PreActResNet with {blocks} blocks: only 18 layers are known"
        )
    shortcut = layout.key(("layer2_0", "shortcut", "kernel"))
    last_norm = layout.key(("norm", "scale")) in shapes
    size = shapes.get(shortcut, (0, 0, 1, 1))[-1]
    return spec | {
        "name": "preact_resnet18",
        "width": stem[0],
        "shortcut": size,
        "shortcut_input": "raw" if size == 3 or not last_norm else "activated",
        "last_norm": last_norm,
    }


def some(names) -> str:
    """The first few of many names, for a message of one line."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _blocks(layout: Layout, shapes: Shapes) -> tuple[int, ...]:
    """How many blocks each stage has."""
    if not layout.block:
        return ()
    conv = layout.inner.get("conv1", "conv1")
    stages: list[int] = []
    while True:
        place = partial(layout.place, len(stages))
        number = next(n for n in count() if f"{place(n)}.{conv}.weight" not in shapes)
        if number == 0:
            return tuple(stages)
        stages.append(number)


def _resnet(blocks: tuple[int, ...]) -> str:
    if blocks not in BLOCKS_OF:
        known = " or ".join(map(str, BLOCKS_OF))
        raise UserError(
            f"a ResNet with {blocks} blocks in its stages: only {known} are known"
        )
    return BLOCKS_OF[blocks]


def _wide(layout: Layout, blocks: tuple[int, ...], shapes: Shapes) -> dict[str, int]:
    if len(blocks) != 3 or len(set(blocks)) != 1:
        raise UserError(
            f"a wide ResNet with {blocks} blocks: three equal stages are known"
        )
    first = shapes[layout.key(("layer1_0", "conv1", "kernel"))][0]
    return {"depth": 6 * blocks[0] + 4, "width": first // 16}
