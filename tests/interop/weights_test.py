"""Published nets give our logits: each family against PyTorch on random weights."""

import importlib.util
import os
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from jaxrobust.errors import UserError  # noqa: E402
from jaxrobust.interop import from_state_dict, load_torch  # noqa: E402
from jaxrobust.models import MODELS  # noqa: E402
from jaxrobust.registry import build  # noqa: E402
from tests.interop import torch_nets  # noqa: E402

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
GIVEN = {"mean": MEAN, "std": STD}
IMAGE = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
RAW = {"shortcut_input": "raw"}
FAMILIES = {
    "resnet18": (torch_nets.resnet, {}),
    "resnet20": (partial(torch_nets.resnet, number=3, depth=3), {}),
    "preact": (torch_nets.preact, {}),
    "preact_raw": (partial(torch_nets.preact, raw=True), RAW),
    "preact_v1": (partial(torch_nets.preact, raw=True, last_norm=False), {}),
    "preact_deepmind": (torch_nets.preact_deepmind, {}),
    "wide": (torch_nets.wide, {}),
    "wide_deepmind": (torch_nets.wide_deepmind, {}),
}


@cache
def drawn(family):
    """(state dict, logits of `IMAGE` normalised by MEAN and STD)."""
    net = torch_nets.Draw()
    pixels = torch.tensor((IMAGE - np.float32(MEAN)[None]) / np.float32(STD)[None])
    with torch.no_grad():
        logits = FAMILIES[family][0](net, pixels.permute(0, 3, 1, 2))
    return net.state, logits.numpy()


def our_logits(spec, variables, image=IMAGE):
    model = build("model", MODELS, spec)
    return jax.jit(lambda x: model.apply(variables, x, train=False))(image)


def assert_same_logits(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_net_gives_the_logits_of_pytorch(family):
    state, logits = drawn(family)
    spec, variables = from_state_dict(state, **GIVEN, **FAMILIES[family][1])
    assert float(np.std(logits)) > 0.01
    assert_same_logits(our_logits(spec, variables), logits)


@pytest.mark.parametrize(
    "family,options",
    (
        ("preact", RAW),
        ("wide", {"activation": "swish"}),
        ("wide_deepmind", {"padding": "both"}),
    ),
)
def test_what_a_state_dict_cannot_tell_matters(family, options):
    """The oracle would notice a wrong assumption."""
    state, logits = drawn(family)
    ours = our_logits(*from_state_dict(state, **GIVEN, **options))
    assert np.abs(ours - logits).max() > 0.01 * np.abs(logits).max()


@pytest.mark.parametrize(
    "names", (("mean", "std"), ("mu", "sigma"), ("0.mean", "0.std"))
)
def test_preprocessing_buffers_are_used(names):
    state, _ = drawn("wide_deepmind")
    buffers = [torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD)]
    inner = {f"1.{k}": v for k, v in state.items()} if "." in names[0] else state
    spec, _ = from_state_dict(inner | dict(zip(names, buffers)))
    np.testing.assert_allclose(spec["mean"], MEAN, rtol=1e-6)
    np.testing.assert_allclose(spec["std"], STD, rtol=1e-6)
    spec, _ = from_state_dict(inner | dict(zip(names, buffers)), (0.5,) * 3, (0.5,) * 3)
    assert spec["mean"] == [0.5] * 3


def test_without_preprocessing_none_is_used_and_said(caplog):
    spec, _ = from_state_dict(drawn("wide")[0])
    assert spec["mean"] == [0.0] * 3 and spec["std"] == [1.0] * 3
    assert "preprocessing none in the file" in caplog.text


def test_deepmind_nets_want_their_preprocessing():
    with pytest.raises(UserError, match="give mean and std"):
        from_state_dict(drawn("wide_deepmind")[0])


WRAPPED = {
    "plain": lambda s: s,
    "data_parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "lightning": lambda s: {
        "state_dict": {f"model.net.{k}": v for k, v in s.items()},
        "epoch": 3,
    },
    "averaged": lambda s: {
        "unaveraged_model_state_dict": {k: 0 * v for k, v in s.items()},
        "model_state_dict": {f"module.0.{k}": v for k, v in s.items()},
    },
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_of_checkpoints_are_seen_through(wrapper, tmp_path):
    state, logits = drawn("resnet20")
    torch.save(WRAPPED[wrapper](state), tmp_path / "net.pt")
    assert_same_logits(our_logits(*load_torch(tmp_path / "net.pt", **GIVEN)), logits)


def test_entry_chooses_among_several_state_dicts(tmp_path):
    state, _ = drawn("resnet20")
    torch.save(WRAPPED["averaged"](state), tmp_path / "net.pt")
    entry = "unaveraged_model_state_dict"
    _, variables = load_torch(tmp_path / "net.pt", entry=entry)
    assert not np.any(variables["params"]["conv1"]["kernel"])
    with pytest.raises(UserError, match="only unaveraged_model_state_dict, model"):
        load_torch(tmp_path / "net.pt", entry="ema")


def test_unused_sub_block_of_trades_is_dropped():
    state, logits = drawn("wide")
    extra = {"sub_block1.layer.0.bn1.weight": torch.ones(16)}
    ours = our_logits(*from_state_dict(state | extra, **GIVEN))
    assert_same_logits(ours, logits)


def spoilt(change):
    state = dict(drawn("resnet18")[0])
    change(state)
    return state


@pytest.mark.parametrize(
    "change,message",
    (
        (lambda s: s.pop("layer2.0.bn1.weight"), "lacks layer2.0.bn1.weight"),
        (lambda s: s.pop("linear.bias"), "lacks linear.bias"),
        (lambda s: s.update({"extra.weight": torch.ones(2)}), "no place for extra"),
        (lambda s: s.update({"bn1.bias": torch.ones(2)}), r"bn1.bias has shape \(2,\)"),
        (lambda s: s.pop("layer4.1.conv1.weight"), r"blocks in its stages"),
        (lambda s: [s.pop(k) for k in list(s) if "lin" in k], "begin conv1.weight"),
        (lambda s: s.clear(), "no tensors"),
        (lambda s: s.update(epoch=3), "not a tensor"),
    ),
)
def test_foreign_or_damaged_state_is_the_users_mistake(change, message):
    with pytest.raises(UserError, match=message):
        from_state_dict(spoilt(change))


@pytest.mark.parametrize(
    "given,message",
    (
        ({"mean": MEAN}, "both mean and std"),
        ({"mean": (0.5,), "std": (0.5,)}, "3 numbers"),
        ({"activation": "relo"}, "did you mean relu"),
        ({"activaton": "relu"}, "did you mean activation"),
    ),
)
def test_bad_arguments_are_the_users_mistake(given, message):
    with pytest.raises(UserError, match=message):
        from_state_dict(drawn("resnet18")[0], **given)


def test_files_that_are_no_weights_are_refused(tmp_path):
    for name in ("net.pt", "net.safetensors"):
        with pytest.raises(UserError, match="not a file"):
            load_torch(tmp_path / name)
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(UserError, match="cannot be read"):
            load_torch(tmp_path / name)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match="state_dict"):
        load_torch(tmp_path / "module.pt")


def published_resnet18():
    """The checkpoint and the net of AutoAttack's examples."""
    found = importlib.util.find_spec("pyautoattack")
    places = found.submodule_search_locations if found else None
    default = Path(places[0]) / "examples" if places else Path("absent")
    folder = Path(os.environ.get("PYAUTOATTACK_EXAMPLES", default))
    if not (folder / "model_test.pt").is_file():
        pytest.skip("needs model_test.pt of pyautoattack")
    spec = importlib.util.spec_from_file_location("resnet", folder / "resnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return folder / "model_test.pt", module.ResNet18()


@pytest.mark.slow
def test_published_resnet18_gives_the_logits_of_its_own_code():
    path, net = published_resnet18()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    image = np.random.default_rng(0).uniform(size=(8, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = net.eval()(torch.tensor(image).permute(0, 3, 1, 2)).numpy()
    assert_same_logits(our_logits(*load_torch(path), image), theirs)
