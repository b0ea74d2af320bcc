"""What we export runs without us, gives our logits and comes back bit for bit."""

import ast
import importlib.util
import sys
from functools import cache

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from jaxrobust.errors import UserError  # noqa: E402
from jaxrobust.interop import export_torch, load_torch  # noqa: E402
from jaxrobust.interop.export import NETWORK, WEIGHTS, spec_of  # noqa: E402
from jaxrobust.models import MODELS  # noqa: E402
from jaxrobust.models.layers import Layers  # noqa: E402
from jaxrobust.models.resnet import ResNet  # noqa: E402
from jaxrobust.registry import build  # noqa: E402
from tests import helpers  # noqa: E402

SHAPE = (16, 24, 2)
IMAGE = helpers.random_images(2, shape=SHAPE)
COMMON = {"num_classes": 5, "mean": (0.4, 0.5), "std": (0.2, 0.25)}
DEEPMIND = {"activation": "swish", "padding": "end", "momentum": 0.99}
NETS = {
    "convnet": {"widths": (8, 16)},
    "convnet batch stride": {"widths": (8, 8, 8), "norm": "batch", "pool": "stride"},
    "convnet group none": {"widths": (8,), "norm": "group", "pool": "none"},
    "convnet batch mean": {"widths": (8, 4), "norm": "batch", "head": "mean"},
    "convnet swish": {"widths": (8,), "activation": "swish"},
    "resnet18": {"width": 4},
    "resnet20 group swish": {"width": 8, "norm": "group", "activation": "swish"},
    "preact_resnet18": {"width": 4},
    "preact_resnet18 deepmind": {"width": 4, "shortcut": 3} | DEEPMIND,
    "preact_resnet18 v1": {"width": 4, "shortcut_input": "raw", "last_norm": False},
    "preact_resnet18 instance": {"width": 4, "norm": "instance"},
    "wide_resnet": {"depth": 10, "width": 2},
    "wide_resnet deepmind": {"depth": 16, "width": 1} | DEEPMIND,
    "wide_resnet instance": {"depth": 10, "width": 1, "norm": "instance"},
}
EVERY = pytest.mark.parametrize("net", NETS)


def made(net, **options):
    return MODELS[net.split()[0]](**COMMON, **(NETS[net] | options))


@cache
def variables_of(net):
    """Kernels of variance 2 / fan-in, so that images still differ in the last layer."""
    drawn = helpers.variables_of(made(net), shape=SHAPE)
    fan = lambda x: np.prod(x.shape[:-1])
    tame = lambda x: x * (30 / fan(x)) ** 0.5 if x.ndim > 1 else x + 0.5
    return drawn | {"params": jax.tree.map(tame, drawn["params"])}


def exported(net, folder, names=()):
    return export_torch(made(net), variables_of(net), folder, class_names=names)


def foreign(folder):
    """The module `network` of a folder, imported as its user would."""
    spec = importlib.util.spec_from_file_location("exported", folder / NETWORK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_model_is_exported_here():
    assert {net.split()[0] for net in NETS} == set(MODELS)


@EVERY
def test_exported_net_gives_our_logits(net, tmp_path):
    model, variables = made(net), variables_of(net)
    theirs = foreign(exported(net, tmp_path)).load()
    assert not any(part.training for part in theirs.modules())
    with torch.no_grad():
        logits = theirs(torch.tensor(IMAGE).permute(0, 3, 1, 2)).numpy()
    ours = np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False))(IMAGE))
    tolerance = 1e-4 * np.abs(ours).max()
    assert np.std(ours, axis=0).max() > 5 * tolerance
    np.testing.assert_allclose(logits, ours, rtol=0, atol=tolerance)


@EVERY
def test_round_trip_is_exact(net, tmp_path):
    spec, variables = load_torch(exported(net, tmp_path) / WEIGHTS)
    assert build("model", MODELS, spec) == made(net)
    helpers.assert_trees_equal(variables, variables_of(net))


def test_tensors_alone_are_recognised_by_their_names(tmp_path):
    """As a foreign program would write them: the same names, nothing said about us."""
    from safetensors.numpy import load_file, save_file

    for net in ("resnet18", "preact_resnet18", "preact_resnet18 v1", "wide_resnet"):
        tensors = load_file(exported(net, tmp_path) / WEIGHTS)
        save_file(tensors, tmp_path / "bare.safetensors")
        mean, std = COMMON["mean"], COMMON["std"]
        spec, variables = load_torch(tmp_path / "bare.safetensors", mean, std)
        assert build("model", MODELS, spec) == made(net)
        helpers.assert_trees_equal(variables, variables_of(net))


def test_network_file_needs_nothing_of_ours(tmp_path):
    folder = exported("convnet", tmp_path)
    tree = ast.parse((folder / NETWORK).read_text())
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    assert roots == {"json", "pathlib", "torch", "safetensors"}
    assert max(map(len, (folder / NETWORK).read_text().splitlines())) <= 88


def test_class_names_travel(tmp_path):
    names = tuple("abcde")
    assert foreign(exported("convnet", tmp_path, names)).load().class_names == [*names]
    with pytest.raises(UserError, match="2 class names for 5"):
        exported("convnet", tmp_path, ("a", "b"))


def test_what_computes_is_not_part_of_the_weights():
    slow = made("resnet18", dtype="bfloat16", conv="xla")
    assert spec_of(slow) == spec_of(made("resnet18"))


def test_other_networks_are_refused(tmp_path):
    layers = Layers("float32", "relu", "batch", "auto")
    odd = ResNet(5, (0.4, 0.5), (0.2, 0.25), layers, (1, 1, 1, 1), 4)
    for model in (odd, helpers.TinyNet()):
        with pytest.raises(UserError, match="made by jaxrobust.models"):
            export_torch(model, {"params": {}}, tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("package", ("torch", "safetensors"))
def test_missing_package_says_how_to_install(package, tmp_path, monkeypatch):
    suffix = {"torch": ".pt", "safetensors": ".safetensors"}[package]
    (tmp_path / f"net{suffix}").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[torch\]'"):
        load_torch(tmp_path / f"net{suffix}")
