"""What every denoising network promises, run over every member of DENOISERS."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.generative.denoisers import DENOISERS
from jaxrobust.generative.denoisers.conditioning import time_embedding
from jaxrobust.generative.denoisers.unet import _ResBlock

CLASSES = 3
SMALL = {
    "mlp": {"width": 8, "num_blocks": 1},
    "unet": {"widths": (8, 16), "num_blocks": 1, "attention": (1,)},
}
EVERY = pytest.mark.parametrize("name", sorted(DENOISERS))
X_T = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
T = jnp.array([0.1, 0.5, 0.9])
LABEL = jnp.array([0, 1, CLASSES])


def build(name, **options):
    return DENOISERS[name](num_classes=CLASSES, **(SMALL[name] | options))


@cache
def perturbed(name):
    """Weights with no zero left among them, drawn by NumPy: nothing to compile."""
    shapes = jax.eval_shape(build(name).init, jax.random.key(0), X_T, T, LABEL)
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda s: draw(size=s.shape, scale=0.3), shapes)


@cache
def compiled(name):
    return jax.jit(build(name).apply)


def predict(name, x_t=X_T, t=T, label=LABEL):
    return np.asarray(compiled(name)(perturbed(name), x_t, t, label))


@EVERY
def test_prediction_looks_like_the_image(name):
    said = predict(name)
    assert said.shape == X_T.shape and said.dtype == np.float32
    assert np.all(np.isfinite(said))


@EVERY
def test_time_and_class_matter(name):
    said = predict(name)
    assert np.abs(predict(name, t=T + 0.05) - said).max() > 1e-2
    other = np.abs(predict(name, label=jnp.array([0, 2, CLASSES])) - said)
    assert other[1].max() > 1e-2 and other[0].max() < 1e-5


@EVERY
def test_the_unknown_class_is_a_class_of_its_own(name):
    unknown = predict(name, label=jnp.full(3, CLASSES))
    for k in range(CLASSES):
        known = predict(name, label=jnp.full(3, k))
        assert np.abs(known - unknown).max() > 1e-2


@EVERY
def test_rows_do_not_see_each_other(name):
    order = np.array([2, 0, 1])
    mixed = predict(name, X_T[order], T[order], LABEL[order])
    np.testing.assert_allclose(mixed, predict(name)[order], rtol=1e-4, atol=1e-5)


@EVERY
def test_half_precision_keeps_float32_weights_and_output(name):
    model = build(name, dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T, LABEL)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    said = jax.jit(model.apply)(perturbed(name), X_T, T, LABEL)
    assert said.dtype == jnp.float32
    full = predict(name)
    assert 0 < np.abs(said - full).max() < 0.2 * np.abs(full).max()


@EVERY
def test_equal_arguments_give_equal_modules(name):
    assert build(name) == build(name) and hash(build(name)) == hash(build(name))


@EVERY
def test_unknown_dtype_is_named(name):
    with pytest.raises(UserError, match="did you mean float32"):
        build(name, dtype="float23")


OPTIONS = {"embedding": "additive", "residual_scale": 0.5**0.5, "dropout": 0.5}


@cache
def unet_of_ddpm_plus_plus():
    """The module with its options, and weights with no zero among them."""
    model = DENOISERS["unet"](CLASSES, (8, 16), 1, attention=(1,), **OPTIONS)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T, LABEL)
    draw = np.random.default_rng(0).normal
    return model, jax.tree.map(lambda s: draw(size=s.shape, scale=0.3), shapes)


def test_additive_embedding_tells_time_and_class():
    model, weights = unet_of_ddpm_plus_plus()
    apply = jax.jit(model.apply)
    said = np.asarray(apply(weights, X_T, T, LABEL))
    assert np.abs(apply(weights, X_T, T + 0.05, LABEL) - said).max() > 1e-2
    other = np.abs(apply(weights, X_T, T, jnp.array([0, 2, CLASSES])) - said)
    assert other[1].max() > 1e-2 and other[0].max() < 1e-5


def test_dropout_is_off_outside_training_and_needs_its_stream_inside():
    model, weights = unet_of_ddpm_plus_plus()
    plain = DENOISERS["unet"](
        CLASSES, (8, 16), 1, attention=(1,), **(OPTIONS | {"dropout": 0.0})
    )
    evaluate = lambda m: np.asarray(jax.jit(m.apply)(weights, X_T, T, LABEL))
    np.testing.assert_array_equal(evaluate(model), evaluate(plain))
    train = jax.jit(
        lambda key: model.apply(
            weights, X_T, T, LABEL, train=True, rngs={"dropout": key}
        )
    )
    first = train(jax.random.key(0))
    assert np.abs(first - train(jax.random.key(1))).max() > 1e-2
    np.testing.assert_array_equal(first, train(jax.random.key(0)))


def test_residual_scale_multiplies_the_sum():
    """Blocks that add nothing yet (last convolution zero) shrink x by the scale."""
    x = jnp.ones((1, 2, 2, 8))
    block = lambda scale: _ResBlock(8, jnp.dtype(jnp.float32), "additive", 0.0, scale)
    inside = block(1.0).init(jax.random.key(0), x, jnp.ones((1, 4)), False)
    out = block(0.5).apply(inside, x, jnp.ones((1, 4)), False)
    np.testing.assert_allclose(out, 0.5 * x)


def test_a_network_without_classes_has_one_the_unknown():
    for name in DENOISERS:
        model = DENOISERS[name](num_classes=0, **SMALL[name])
        shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T, LABEL)
        tables = [s.shape for s in jax.tree.leaves(shapes["params"]["Conditioning_0"])]
        assert (1, SMALL[name].get("width", 32)) in tables


@pytest.mark.parametrize(
    ("option", "said"),
    [({"embedding": "addive"}, "did you mean additive"), ({"dropout": 1.0}, "below 1")],
)
def test_unet_options_are_checked(option, said):
    with pytest.raises(UserError, match=said):
        build("unet", **option)


def test_unet_reaches_photographs():
    model = DENOISERS["unet"](10, (128, 256, 256, 256), 2, attention=(2,))
    x_t = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    row = jax.ShapeDtypeStruct((2,), jnp.float32)
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    said, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x_t, row, label)
    assert said.shape == x_t.shape


def test_unet_refuses_sides_that_it_cannot_halve():
    with pytest.raises(UserError, match="divisible by 2, not 5x4"):
        build("unet").init(jax.random.key(0), jnp.zeros((1, 5, 4, 1)), T[:1], LABEL[:1])


def test_time_embedding_tells_neighbouring_steps_apart():
    t = jnp.arange(1001) / 1000
    near = jnp.linalg.norm(jnp.diff(time_embedding(t, 32), axis=0), axis=1)
    assert near.min() > 0.5
