"""What every model promises, run over every member of MODELS."""

import inspect
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import tree
from jaxrobust.errors import UserError
from jaxrobust.models import MODELS

SMALL = {
    "convnet": {"widths": (4, 8), "norm": "batch"},
    "resnet18": {"width": 4},
    "resnet20": {"width": 4},
    "preact_resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "width": 1},
}
EVERY = pytest.mark.parametrize("name", sorted(MODELS))
IMAGE = np.random.default_rng(0).uniform(size=(3, 8, 8, 2)).astype(np.float32)


def build(name, mean=(0.4, 0.5), std=(0.2, 0.25), **options):
    return MODELS[name](num_classes=5, mean=mean, std=std, **(SMALL[name] | options))


@cache
def initialised(name):
    """A model and arrays of the right shapes, drawn by NumPy.

    Compiling `model.init` takes ten seconds for a deep net; initializers_test.py is
    about what it draws.
    """
    model = build(name)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        last = path[-1].key
        if last == "kernel":
            spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return (spread * rng.normal(size=leaf.shape)).astype(np.float32)
        low, high = (0.5, 1.5) if last in ("scale", "var") else (-0.2, 0.2)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: model.init(key, IMAGE, train=False))
    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def evaluate(model, variables, image):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, image)


def test_every_model_has_a_small_version():
    assert set(SMALL) == set(MODELS)


@EVERY
def test_factory_names_its_options(name):
    parameters = inspect.signature(MODELS[name]).parameters
    assert {"num_classes", "mean", "std", "dtype", "conv", "norm"} <= set(parameters)
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())


@EVERY
def test_equal_options_make_equal_hashable_models(name):
    assert build(name) == build(name, mean=[0.4, 0.5])
    assert hash(build(name)) == hash(build(name))
    assert build(name) != build(name, dtype="bfloat16")


@EVERY
def test_logits_are_float32_by_class(name):
    logits = evaluate(*initialised(name), IMAGE)
    assert logits.shape == (3, 5) and logits.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(logits))) and float(jnp.std(logits)) > 0


@EVERY
def test_rows_do_not_see_each_other_in_eval_mode(name):
    model, variables = initialised(name)
    whole, part = (evaluate(model, variables, x) for x in (IMAGE, IMAGE[1:2]))
    np.testing.assert_allclose(whole[1:2], part, rtol=1e-4, atol=1e-5)


@EVERY
def test_normalisation_is_inside(name):
    model, variables = initialised(name)
    shifted = build(name, mean=(0.1, 0.1), std=(1.0, 0.5))
    moved = (IMAGE - np.float32((0.4, 0.5))) / np.float32((0.2, 0.25))
    moved = moved * np.float32((1.0, 0.5)) + np.float32(0.1)
    expected = evaluate(model, variables, IMAGE)
    logits = evaluate(shifted, variables, moved)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@EVERY
def test_training_updates_the_statistics_and_evaluation_does_not(name):
    model, variables = initialised(name)

    @jax.jit
    def run(v, x):
        _, trained = model.apply(v, x, train=True, mutable=["batch_stats"])
        _, frozen = model.apply(v, x, train=False, mutable=["batch_stats"])
        return trained, frozen

    trained, frozen = run(variables, IMAGE)
    start = tree.digest(variables["batch_stats"])
    assert tree.digest(trained["batch_stats"]) != start
    assert tree.digest(frozen["batch_stats"]) == start


@EVERY
def test_bfloat16_computes_but_does_not_store(name):
    model = build(name, dtype="bfloat16")
    _, variables = initialised(name)
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}
    logits = evaluate(model, variables, IMAGE)
    assert logits.dtype == jnp.float32
    exact = evaluate(*initialised(name), IMAGE)
    assert 0 < float(jnp.abs(logits - exact).max()) < 0.2 * float(jnp.abs(exact).max())


@EVERY
def test_the_two_convolutions_agree(name):
    image, label = jnp.asarray(IMAGE), jnp.arange(3)
    _, variables = initialised(name)

    def gradients(conv):
        model = build(name, conv=conv)

        def loss(params, image):
            logits = model.apply(variables | {"params": params}, image, train=False)
            return jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(3), label])

        return jax.jit(jax.grad(loss, (0, 1)))(variables["params"], image)

    ours, theirs = gradients("canonical"), gradients("xla")
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = float(jnp.abs(b).max()) + 1e-6
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-4)


@EVERY
def test_embedding_is_the_input_of_the_last_layer(name):
    model, variables = initialised(name)
    assert set(variables) == {"params", "batch_stats"}
    logits, sown = model.apply(variables, IMAGE, train=False, mutable=["intermediates"])
    (embedding,) = sown["intermediates"]["embedding"]
    linear = variables["params"]["linear"]
    rebuilt = embedding @ linear["kernel"] + linear["bias"][None]
    np.testing.assert_allclose(rebuilt, logits, rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize(
    "option",
    ({"activation": "relo"}, {"norm": "bach"}, {"dtype": "float16"}, {"conv": "fast"}),
)
def test_unknown_choice_lists_the_known_ones(name, option):
    with pytest.raises(UserError, match="choose from"):
        build(name, **option)


@EVERY
def test_wrong_number_of_channels_is_the_users_mistake(name):
    model, variables = initialised(name)
    with pytest.raises(UserError, match="channels"):
        model.apply(variables, IMAGE[..., :1], train=False)
