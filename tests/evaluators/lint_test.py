"""The lint finds what blocks a gradient on its way, and nothing that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxrobust.evaluators import lint
from jaxrobust.models import MODELS
from tests.evaluators import networks

IMAGE = jnp.full((2, 8, 8, 3), 0.5)
STATS = ((0.5,) * 3, (0.25,) * 3)
RELU = jax.nn.relu


def flat(x):
    return jnp.reshape(x, (len(x), -1))


def primitives(function, image=IMAGE):
    return [f.primitive for f in lint.find(function, image) if f.on_path]


@pytest.mark.parametrize("conv", ("canonical", "xla"))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnet", {"width": 4, "depth": 1, "norm": "batch"}),
        ("convnet", {"width": 4, "depth": 2, "norm": "instance"}),
        ("convnet", {"width": 8, "depth": 1, "norm": "group", "activation": "swish"}),
        ("resnet20", {"width": 4}),
        ("preact_resnet18", {"width": 4}),
        ("wide_resnet", {"depth": 10, "width": 1}),
    ],
)
def test_our_models_are_clean(name, options, conv):
    model = MODELS[name](4, *STATS, conv=conv, **options)
    init = lambda: model.init(jax.random.key(0), IMAGE, train=False)
    blank = jax.tree.map(lambda x: jnp.ones(x.shape), jax.eval_shape(init))
    network = jax.tree_util.Partial(lambda v, x: model.apply(v, x, train=False), blank)
    assert lint.find(network, IMAGE) == []


HARMLESS = {
    "softmax": lambda x: jax.nn.softmax(flat(x)),
    "log_softmax": lambda x: jax.nn.log_softmax(flat(x)),
    "logsumexp": lambda x: jax.nn.logsumexp(flat(x), axis=1),
    "softmax by hand": lambda x: x - lax.stop_gradient(jnp.max(x, 3, keepdims=True)),
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "clip": lambda x: jnp.clip(x, 0.2, 0.8),
    "where": lambda x: jnp.where(x > 0.5, x, 0.1 * x),
    "max pooling": lambda x: nn.max_pool(x, (2, 2)),
    "norm": lambda x: x / jnp.linalg.norm(flat(x), axis=1)[:, None, None, None],
    "remat": jax.checkpoint(jnp.sin),
    "scan": lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, length=3)[0],
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda _, c: jnp.sin(c), x),
    "cond": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "rounded constant": lambda x: x + jnp.round(jnp.ones(8) * 3.3)[None, None, :, None],
    "resize": lambda x: jax.image.resize(x, (2, 4, 4, 3), "bilinear"),
    "unused argmax": lambda x: (x, jnp.argmax(x))[0],
    "print": lambda x: (jax.debug.print("{}", jnp.round(x).sum()), x)[1],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_parts_are_clean(name):
    assert primitives(HARMLESS[name]) == []


def test_attention_is_clean():
    attention = nn.MultiHeadDotProductAttention(num_heads=2)
    tokens = lambda x: jnp.reshape(x, (2, 8, 24))
    weights = attention.init(jax.random.key(0), tokens(IMAGE))
    assert primitives(lambda x: attention.apply(weights, tokens(x))) == []


BLOCKED = {
    "round": (jnp.round, ["round"]),
    "floor": (jnp.floor, ["floor"]),
    "ceil": (jnp.ceil, ["ceil"]),
    "sign": (jnp.sign, ["sign"]),
    "argmax": (lambda x: jax.nn.one_hot(jnp.argmax(flat(x), 1), 4), ["argmax"]),
    "uint8": (
        lambda x: (x * 255).astype(jnp.uint8) / 255.0,
        ["convert_element_type"],
    ),
    "mask": (
        lambda x: x * (x > 0.5).astype(jnp.float32),
        ["convert_element_type"],
    ),
    "threshold": (lambda x: jnp.where(x > 0.5, 1.0, 0.0), ["select_n"]),
    "stopped": (lambda x: lax.stop_gradient(x) + x, ["stop_gradient"]),
    "sort": (lambda x: jnp.sort(flat(x)), ["sort"]),
    "top_k": (lambda x: lax.top_k(flat(x), 3)[0], ["top_k"]),
    "while": (
        lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c * 2, x),
        ["while"],
    ),
    "callback": (
        lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        ["pure_callback"],
    ),
    "noise of the image": (
        lambda x: x + jax.random.normal(jax.random.key(x.sum().astype(int)), x.shape),
        ["convert_element_type"],
    ),
    "in jit": (jax.jit(lambda x: jnp.round(x)), ["round"]),
    "in remat": (jax.checkpoint(jnp.round), ["round"]),
    "in cond": (lambda x: lax.cond(x.sum() > 0, jnp.round, jnp.sin, x), ["round"]),
    "in the second round": (
        lambda x: lax.scan(
            lambda c, _: ((c[1], jnp.round(c[0])), None), (x * 0.0 + 1, x), length=3
        )[0],
        ["round"],
    ),
    "from the carry": (
        lambda x: lax.scan(
            lambda c, _: ((x, jnp.round(c[0])), None),
            (jnp.zeros_like(x), jnp.zeros_like(x)),
            length=3,
        )[0],
        ["round"],
    ),
    "in while": (
        lambda x: lax.while_loop(
            lambda c: c[0].sum() < 9,
            lambda c: (c[1] * 2, jnp.round(c[0])),
            (jnp.zeros_like(x), x),
        ),
        ["while", "round"],
    ),
    "in relu": (lambda x: RELU(jnp.round(x)), ["round"]),
    "straight-through": (networks.straight_through, ["custom_vjp_call", "round"]),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_what_blocks_is_found(name):
    function, expected = BLOCKED[name]
    assert primitives(function) == expected


def test_a_gradient_by_hand_is_found():
    @jax.custom_jvp
    def scaled(x):
        return x

    scaled.defjvp(lambda x, dx: (x[0], 0 * dx[0]))
    assert primitives(scaled) == ["custom_jvp_call"]


def test_random_numbers_beside_the_image_do_not_block():
    noise = lambda x: x + jax.random.normal(jax.random.key(0), x.shape)
    (found,) = lint.find(noise, IMAGE)
    assert found.primitive == "random_bits" and not found.on_path


def test_the_place_is_that_of_the_call():
    # jnp.round is compiled once: its own trace remembers the first caller only.
    def one(x):
        return jnp.round(x)

    def other(x):
        return jnp.round(x)

    for function in (one, other):
        (found,) = lint.find(function, IMAGE)
        assert found.where.startswith("lint_test.py:")
        assert found.where.endswith(f"({function.__name__})")


def test_traces_tell_drawn_numbers_from_fixed_ones():
    draw = np.random.default_rng(0)
    weights = draw.normal(size=IMAGE.shape)
    assert lint.traced_alike(lambda x: x + weights + 2.0, IMAGE)
    assert lint.traced_alike(lambda x: x + jnp.nan, IMAGE)
    assert not lint.traced_alike(lambda x: x + draw.normal(), IMAGE)
    assert not lint.traced_alike(lambda x: x + draw.normal(size=IMAGE.shape), IMAGE)
    inner = lambda x: jax.checkpoint(lambda y: y * draw.normal())(x)
    assert not lint.traced_alike(inner, IMAGE)


def test_what_cannot_be_traced_raises_its_own_error():
    with pytest.raises(jax.errors.TracerArrayConversionError):
        lint.find(lambda x: np.asarray(x), IMAGE)
