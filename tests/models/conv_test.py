"""The canonical convolution is XLA's, derivatives of all orders included."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust.models import unit_stride, winograd
from jaxrobust.models.conv import canonical, convolve
from jaxrobust.models.unit_stride import NHWC


def plain(x, w, stride, padding):
    return lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=NHWC)


def operands(kernel, size, channels=(3, 4), batch=2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *size, channels[0])).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, *channels)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(w)


def assert_same(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        scale = np.abs(np.asarray(b)).max() + 1e-12
        assert np.abs(np.asarray(a) - np.asarray(b)).max() / scale < tolerance


@pytest.mark.parametrize("kernel", (1, 3, 5))
@pytest.mark.parametrize("stride", (1, 2, 3))
def test_value_and_gradients_equal_autodiff(kernel, stride):
    for padding, size in itertools.product(
        ("SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (2, 0))), ((8, 8), (9, 7))
    ):
        x, w = operands(kernel, size)

        def both(conv, x, w, padding=padding):
            out, pull = jax.vjp(lambda x, w: conv(x, w, (stride,) * 2, padding), x, w)
            return out, pull(jnp.cos(out))

        ours = jax.jit(both, static_argnums=0)(convolve, x, w)
        assert_same(ours, jax.jit(both, static_argnums=0)(plain, x, w))


@pytest.mark.parametrize("kernel,stride", ((1, 1), (1, 2), (3, 1), (3, 2)))
def test_gradients_of_gradients_equal_autodiff(kernel, stride):
    x, w = operands(kernel, (6, 5))
    padding = ((kernel // 2,) * 2,) * 2

    def loss(conv, x, w):
        return jnp.sum(jnp.sin(conv(x, w, (stride,) * 2, padding)))

    def second(conv, x, w):
        def length(x, w):
            gx, gw = jax.grad(loss, (1, 2))(conv, x, w)
            return jnp.mean(gx**2) + jnp.mean(gw**2)

        def third(x, w):
            return sum(jnp.mean(g**2) for g in jax.grad(length, (0, 1))(x, w))

        return jax.grad(length, (0, 1))(x, w), jax.grad(third, (0, 1))(x, w)

    ours, theirs = (
        jax.jit(second, static_argnums=0)(c, x, w) for c in (convolve, plain)
    )
    assert_same(ours, theirs, 1e-4)


def test_hessian_vector_product_is_the_gradient_of_an_inner_product():
    x, w = operands(3, (6, 6))
    vector = jnp.flip(w, axis=2)

    def slope(conv, w):
        return jax.grad(lambda w: jnp.sum(jnp.tanh(conv(x, w, (1, 1), "SAME"))))(w)

    ours = jax.jit(jax.grad(lambda w: jnp.vdot(slope(convolve, w), vector)))(w)
    _, theirs = jax.jit(lambda w: jax.jvp(partial(slope, plain), (w,), (vector,)))(w)
    assert_same(ours, theirs)


@pytest.mark.parametrize("kernel", (1, 3))
def test_per_example_gradients_equal_single_ones(kernel):
    x, w = operands(kernel, (6, 6), batch=3)

    def grad_one(image):
        return jax.grad(lambda w: jnp.sum(jnp.sin(convolve(image[None], w))))(w)

    batched = jax.jit(jax.vmap(grad_one))(x)
    assert_same(batched, jnp.stack([grad_one(image) for image in x]))


def test_forward_mode_says_so():
    x, w = operands(3, (6, 6))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: convolve(x, w), (x,), (x,))


@pytest.mark.parametrize("option", ({"rhs_dilation": (2, 2)}, {"groups": 3}))
def test_dilated_and_grouped_fall_back_to_xla(option):
    x, _ = operands(3, (8, 8))
    groups = option.pop("groups", 1)
    w = jnp.ones((3, 3, 3 // groups, 6))
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, NHWC)
    out = canonical(
        x,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=numbers,
        feature_group_count=groups,
        **option,
    )
    expected = lax.conv_general_dilated(
        x, w, (1, 1), "SAME", None, option.get("rhs_dilation"), NHWC, groups
    )
    assert_same(out, expected)


WIDE = np.random.default_rng(1).normal(size=(2, 10, 8, 6)).astype(np.float32)


@pytest.mark.parametrize("pads", (((1, 1), (1, 1)), ((0, 2), (2, 0)), ((0, 0), (1, 3))))
@pytest.mark.parametrize("outputs", (1, 3, 16))
@pytest.mark.parametrize("kernel", (1, 3, 5))
def test_every_unit_stride_form_is_the_plain_one(kernel, outputs, pads):
    if kernel == 5:
        pads = tuple((lo + 1, hi + 1) for lo, hi in pads)
    x = jnp.asarray(WIDE)
    w = operands(kernel, (8, 8), (6, outputs))[1]
    expected = plain(x, w, (1, 1), pads)
    assert_same(unit_stride._sum_of_shifts(x, w, pads), expected)
    assert_same(unit_stride.convolve_unit_stride(x, w, pads), expected)
    packed = unit_stride._plain(x, unit_stride._widen(w, 2), pads, 2)
    assert_same(packed.reshape(expected.shape), expected)
    if kernel == 3:
        assert_same(winograd.convolve_3x3(x, w, pads), expected)


def test_packing_leaves_wide_and_odd_images_alone():
    assert unit_stride.packing(16, 16, 32) == 2
    assert unit_stride.packing(3, 16, 32) == 4
    assert unit_stride.packing(16, 16, 31) == 1
    assert unit_stride.packing(16, 32, 32) == 1
    assert unit_stride.packing(3, 32, 32) == 2
    assert unit_stride.packing(3, 64, 32) == 1


@pytest.mark.parametrize("cores", (1, unit_stride.MANY_CORES))
def test_forms_for_few_and_many_cores_are_the_plain_one(cores, monkeypatch):
    monkeypatch.setattr(unit_stride, "cores_per_device", lambda: cores)
    x, w = operands(3, (8, 8), (6, 16))
    pads = ((1, 1), (1, 1))
    run = lambda x, w: unit_stride.convolve_unit_stride(x, w, pads)
    assert_same(run(x, w), plain(x, w, (1, 1), pads))
    sliced = "slice" in str(jax.make_jaxpr(run)(x, w))
    assert sliced == (cores > 1), "a row too many is asked for, and dropped"


@pytest.mark.parametrize("pads", (((1, 1), (1, 1)), ((0, 2), (2, 0)), ((0, 0), (1, 3))))
def test_winograds_gradient_by_the_weights_is_the_plain_one(pads):
    x = jnp.asarray(WIDE)
    w = operands(3, (8, 8), (6, 5))[1]
    y, pull = jax.vjp(lambda w: plain(x, w, (1, 1), pads), w)
    g = jnp.asarray(np.random.default_rng(2).normal(size=y.shape), jnp.float32)
    assert_same(winograd.weight_grad_3x3(x, g, pads), pull(g)[0])


def test_derivatives_of_winograds_form_are_the_plain_ones(monkeypatch):
    x, w = operands(3, (8, 8), (6, 5))
    run = lambda f: jax.grad(lambda x, w: curve(f, x, w), (0, 1))(x, w)

    def curve(f, x, w):
        by_image, by_weights = jax.grad(lambda x, w: (f(x, w) ** 3).sum(), (0, 1))(x, w)
        return (by_image**2).sum() + (by_weights**2).sum()

    expected = run(lambda x, w: plain(x, w, (1, 1), "SAME"))
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 0)
    assert winograd.pays_by_weights(x, plain(x, w, (1, 1), "SAME"))
    assert_same(run(convolve), expected)


def test_winograd_only_where_it_was_measured_to_pay():
    def pays(batch, size, channels, kernel=3, dtype=jnp.float32):
        x = jnp.zeros((batch, size, size, channels), dtype)
        w = jnp.zeros((kernel, kernel, channels, channels), dtype)
        return winograd.pays(x, w, (size, size))

    assert pays(32, 16, 128) and pays(32, 8, 256) and pays(32, 4, 512)
    assert not pays(16, 4, 512), "too few tiles"
    assert not pays(32, 32, 64), "too few channels"
    assert not pays(1, 16, 128), "too small to earn its compilation"
    assert not pays(32, 15, 128) and not pays(32, 16, 128, kernel=5)
    assert not pays(32, 16, 128, dtype=jnp.bfloat16), "tiles lose digits"


def test_winograd_for_weights_wants_more_tiles():
    def pays(batch, size, channels):
        x = jnp.zeros((batch, size, size, channels))
        return winograd.pays_by_weights(x, x)

    assert pays(32, 16, 128) and pays(16, 8, 256)
    assert not pays(32, 4, 512), "16 results of 512 x 512 from 128 tiles"
    assert not pays(32, 16, 64), "too few channels"
