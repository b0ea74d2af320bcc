"""Networks outside JAX are attacked as ours are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from jaxrobust import losses  # noqa: E402
from jaxrobust.attacks.pgd import pgd  # noqa: E402
from jaxrobust.errors import UserError  # noqa: E402
from jaxrobust.interop import ensemble, from_callable, from_torch  # noqa: E402
from jaxrobust.threat import make_threat  # noqa: E402
from tests import helpers  # noqa: E402

SHAPE = (6, 4, 2)
IMAGE = jnp.asarray(helpers.random_images(5, shape=SHAPE))
LABEL = jnp.asarray([0, 1, 2, 0, 1])
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
HEAD = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def our_net(image):
    """conv3x3 - softplus - mean - linear in JAX."""
    x = jax.lax.conv_general_dilated(
        image, KERNEL, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.softplus(x).mean((1, 2)) @ HEAD


class TorchNet(torch.nn.Module):
    """The same in PyTorch, on a copy of the weights."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, bias=False)
        self.conv.weight.data = torch.tensor(KERNEL.transpose(3, 2, 0, 1).copy())
        self.head = torch.nn.Linear(4, 3, bias=False)
        self.head.weight.data = torch.tensor(HEAD.T.copy())

    def forward(self, image):
        x = torch.nn.functional.softplus(self.conv(image))
        return self.head(x.mean((2, 3)))


def their_net():
    return from_torch(TorchNet().eval(), 3)


def host_net(image):
    """NumPy: linear in the pixels of each channel, NHWC."""
    return image.mean((1, 2)) @ HEAD[:2]


def test_logits_and_gradient_are_those_of_pytorch():
    upstream = jnp.asarray(helpers.random_weight(3, 3, (5,)))
    ours, our_pull = jax.vjp(our_net, IMAGE)
    theirs, their_pull = jax.vjp(jax.jit(their_net()), IMAGE)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
    slope = np.asarray(our_pull(upstream)[0])
    assert np.abs(slope).max() > 1e-3
    np.testing.assert_allclose(their_pull(upstream)[0], slope, rtol=1e-4, atol=1e-6)


def test_pgd_through_pytorch_is_pgd_on_the_same_weights():
    threat = make_threat("l2", 0.5)
    attack = pgd(threat, losses.cross_entropy, 0.1, 4, "uniform", 1, keep_best=False)
    keys = helpers.image_keys(range(5))
    run = jax.jit(attack)
    wrap = jax.tree_util.Partial
    ours = run(keys, wrap(our_net), IMAGE, LABEL)
    theirs = run(keys, their_net(), IMAGE, LABEL)
    assert float(jnp.abs(ours - IMAGE).max()) > 0.01
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_gradient_leaves_the_module_as_it_was():
    net = TorchNet().eval()
    jax.grad(lambda x: from_torch(net, 3)(x).sum())(IMAGE)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_layouts_of_the_caller():
    seen = []

    def record(image):
        seen.append(image.shape)
        return image.reshape(len(image), -1)[:, :3]

    for layout in ("NHWC", "NCHW"):
        from_callable(record, 3, layout)(IMAGE).block_until_ready()
    assert seen == [(5, 6, 4, 2), (5, 2, 6, 4)]
    as_module = from_callable(TorchNet().eval(), 3, "NCHW")
    np.testing.assert_allclose(as_module(IMAGE), our_net(IMAGE), rtol=1e-5, atol=1e-6)

    class Last(torch.nn.Module):
        def forward(self, image):
            return TorchNet()(image.permute(0, 3, 1, 2))

    logits_fn = from_torch(Last().eval(), 3, layout="NHWC")
    total = lambda net: lambda x: net(x)[:, 0].sum()
    ours = jax.grad(total(our_net))(IMAGE)
    np.testing.assert_allclose(
        jax.grad(total(logits_fn))(IMAGE), ours, rtol=1e-4, atol=1e-6
    )


def test_host_callable_works_inside_compiled_loops():
    logits_fn = from_callable(host_net, 3, "NHWC")
    body = lambda _, x: x + 0.01 * logits_fn(x)[:, None, None, :2]
    x = jax.jit(lambda x: jax.lax.fori_loop(0, 3, body, x))(IMAGE)
    expected = np.asarray(IMAGE)
    for _ in range(3):
        expected = expected + 0.01 * host_net(expected)[:, None, None, :2]
    np.testing.assert_allclose(x, expected, rtol=1e-5)


def test_no_gradient_through_a_host_callable():
    logits_fn = from_callable(host_net, 3, "NHWC")
    with pytest.raises(UserError, match="black-box"):
        jax.grad(lambda x: logits_fn(x).sum())(IMAGE)


def test_train_mode_is_refused_unless_allowed():
    net = TorchNet().eval()
    net.head.train()
    for wrap in (
        lambda: from_torch(net, 3),
        lambda: from_callable(net, 3, "NCHW"),
    ):
        with pytest.raises(UserError, match="eval"):
            wrap()
    allowed = from_torch(net, 3, allow_training=True)
    np.testing.assert_allclose(allowed(IMAGE), our_net(IMAGE), rtol=1e-5, atol=1e-6)


def test_mistakes_of_the_caller():
    with pytest.raises(UserError, match="choose from NCHW, NHWC"):
        from_callable(host_net, 3, "HWC")
    with pytest.raises(UserError, match="choose from NCHW, NHWC"):
        from_torch(TorchNet().eval(), 3, "HWC")
    with pytest.raises(UserError, match="nn.Module"):
        from_torch(host_net, 3)
    with pytest.raises(Exception, match=r"returned \(5, 3\) for 5 images"):
        from_callable(host_net, 4, "NHWC")(IMAGE).block_until_ready()


def test_ensemble_means():
    members, weights = [our_net, lambda x: -2.0 * our_net(x)], (1.0, 3.0)
    logits = np.asarray(our_net(IMAGE), np.float64)
    soft = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)
    mixed = 0.25 * soft(logits) + 0.75 * soft(-2 * logits)
    ours = jax.jit(lambda f, x: f(x))(
        ensemble(members, weights, "probabilities"), IMAGE
    )
    np.testing.assert_allclose(ours, np.log(mixed), rtol=1e-4, atol=1e-5)
    ours = ensemble(members, weights, "logits")(IMAGE)
    np.testing.assert_allclose(ours, -1.25 * logits, rtol=1e-4, atol=1e-5)


def test_member_without_weight_has_no_say_and_no_nan():
    both = ensemble([our_net, their_net()], (1.0, 0.0), "probabilities")
    total = lambda net: lambda x: losses.cross_entropy(net(x), LABEL).sum()
    np.testing.assert_allclose(
        jax.grad(total(both))(IMAGE), jax.grad(total(our_net))(IMAGE), atol=1e-5
    )


@pytest.mark.parametrize("weights", ((1.0,), (1.0, -1.0), (0.0, 0.0), (1.0, np.nan)))
def test_senseless_weights_are_refused(weights):
    with pytest.raises(UserError, match="weights"):
        ensemble([our_net, our_net], weights, "logits")
    with pytest.raises(UserError, match="choose from"):
        ensemble([our_net], (1.0,), "votes")
