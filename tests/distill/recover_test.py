"""Recovery goes down its loss, by the formula, and repeats itself."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

from jaxrobust import losses
from jaxrobust.data.digits import digits
from jaxrobust.distill import crops, recover
from jaxrobust.distill.images import noise_images
from jaxrobust.errors import UserError
from jaxrobust.models import MODELS
from jaxrobust.state import bind
from tests.helpers import TinyNet, linear_logits, random_images, variables_of

KEY = jax.random.key(8)
MEAN, STD = (0.3,), (0.35,)
SHAPE = (8, 8, 1)
NET = MODELS["convnet"](10, MEAN, STD, widths=(8, 12), norm="batch")
LABEL = jnp.tile(jnp.arange(10), 2)
SHAKE = {"least_scale": 1.0, "milestone": 0.0, "ratio": (1.0, 1.0), "flip": False}
STILL = crops.make_multi_crop(total_steps=1, jitter=(0, 0), **SHAKE)
ROLLED = crops.make_multi_crop(total_steps=1, jitter=(0, 1), **SHAKE)  # as on CIFAR


class TwoNorms(nn.Module):
    """Statistics that can be counted by hand: the image's, then a linear map's."""

    @nn.compact
    def __call__(self, image, train):
        """f32[B,H,W,C] -> f32[B,3]."""
        norm = lambda: nn.BatchNorm(use_running_average=not train)
        x = nn.Dense(5, use_bias=False)(norm()(image))
        return nn.Dense(3)(jnp.mean(norm()(x), axis=(1, 2)))


@cache
def trained():
    """Weights of `NET` after 100 steps on the digits."""
    data = digits("train")
    image = jnp.asarray(data.image, jnp.float32) / 255
    label = jnp.asarray(data.label, jnp.int32)
    tx = optax.adam(1e-2)

    def loss(params, stats, rows):
        logits, new = NET.apply(
            {"params": params, "batch_stats": stats},
            image[rows],
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.mean(losses.cross_entropy(logits, label[rows])), new["batch_stats"]

    def step(carry, key):
        params, stats, opt_state = carry
        rows = jax.random.randint(key, (64,), 0, len(label))
        grad, stats = jax.grad(loss, has_aux=True)(params, stats, rows)
        updates, opt_state = tx.update(grad, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), None

    @jax.jit
    def fit():
        drawn = NET.init(KEY, image[:1], train=False)
        params, stats = drawn["params"], drawn["batch_stats"]
        carry = (params, stats, tx.init(params))
        carry, _ = lax.scan(step, carry, jax.random.split(KEY, 100))
        return {"params": carry[0], "batch_stats": carry[1]}

    return fit()


def make(view=ROLLED, **options):
    given = {"total_steps": 60, "learning_rate": 0.25, "std": jnp.array(STD)}
    given |= {"r_bn": 0.1, "first_weight": 10.0}
    return recover.make_advance(view, **given | options)


@cache
def advance():
    return make()


def run(key=KEY, counts=(60,)):
    """(state, facts by step) of one chunk, made in pieces of `counts` steps."""
    state = recover.start(noise_images(key, (len(LABEL), *SHAPE), MEAN, STD))
    teacher, facts = recover.bind_teacher(NET, trained()), []
    for count in counts:
        state, history = advance()(teacher, state, key, LABEL, count)
        facts.append(history)
    return state, jax.tree.map(lambda *x: np.concatenate(x), *facts)


def numpy_gaps(image, variables):
    """The gaps of `NET` in evaluation mode, layer by layer."""
    variables = jax.tree.map(np.asarray, variables)
    params, stats = variables["params"], variables["batch_stats"]
    x, gaps = (np.asarray(image, np.float64) - MEAN[0]) / STD[0], []
    for i in range(2):
        kernel, bias = params[f"conv{i}"]["kernel"], params[f"conv{i}"]["bias"]
        height, width = x.shape[1:3]
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = bias + sum(
            wide[:, a : a + height, b : b + width] @ kernel[a, b]
            for a in range(3)
            for b in range(3)
        )
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        norm, running = params[f"norm{i}"], stats[f"norm{i}"]
        gaps.append(
            np.sqrt(((running["var"] - var) ** 2).sum())
            + np.sqrt(((running["mean"] - mean) ** 2).sum())
        )
        x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        x = np.maximum(x * norm["scale"] + norm["bias"], 0)
        x = x.reshape(len(x), height // 2, 2, width // 2, 2, -1).mean((2, 4))
    return np.array(gaps)


def test_gaps_are_those_that_numpy_finds():
    variables, image = variables_of(NET, shape=SHAPE), random_images(7, shape=SHAPE)
    logits, gaps = jax.jit(recover.bind_teacher(NET, variables))(jnp.asarray(image))
    np.testing.assert_allclose(gaps, numpy_gaps(image, variables), rtol=1e-4)
    np.testing.assert_allclose(
        logits, jax.jit(bind(NET, variables, "running"))(image), rtol=1e-5, atol=1e-6
    )


def test_the_first_gap_has_a_weight_of_its_own():
    gaps = jnp.array([2.0, 3.0, 5.0])
    assert recover.statistics_gap(gaps, 10.0) == 28
    assert recover.statistics_gap(gaps[:1], 0.5) == 1


def at_rest(image):
    """Variables of `TwoNorms` whose running statistics are those of `image`."""
    variables = variables_of(TwoNorms(), shape=image.shape[1:])
    moments = lambda x: {"mean": jnp.mean(x, (0, 1, 2)), "var": jnp.var(x, (0, 1, 2))}
    first = moments(image)
    norm, dense = (variables["params"][k] for k in ("BatchNorm_0", "Dense_0"))
    x = (image - first["mean"].reshape(1, 1, 1, -1)) / jnp.sqrt(
        first["var"].reshape(1, 1, 1, -1) + 1e-5
    )
    x = x * norm["scale"].reshape(1, 1, 1, -1) + norm["bias"].reshape(1, 1, 1, -1)
    stats = {"BatchNorm_0": first, "BatchNorm_1": moments(x @ dense["kernel"])}
    return {"params": variables["params"], "batch_stats": stats}


def test_a_batch_with_the_running_statistics_has_no_gap():
    image = jnp.asarray(random_images(9, shape=(4, 4, 2)))
    teacher = jax.jit(recover.bind_teacher(TwoNorms(), jax.jit(at_rest)(image)))
    np.testing.assert_allclose(teacher(image)[1], 0, atol=1e-5)
    assert (teacher(0.5 * image)[1] > 0.1).all()


def test_where_the_gap_is_exactly_zero_its_gradient_is_too():
    image = jnp.full((2, 4, 4, 2), 0.5)
    still = {"mean": jnp.full(2, 0.5), "var": jnp.zeros(2)}
    variables = jax.jit(at_rest)(image)
    variables["batch_stats"]["BatchNorm_0"] = still
    teacher = recover.bind_teacher(TwoNorms(), variables)
    gap, grad = jax.jit(jax.value_and_grad(lambda x: teacher(x)[1][0]))(image)
    assert gap == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("name,layers", [("resnet18", 20), ("preact_resnet18", 17)])
def test_every_batchnorm_of_a_model_is_watched_once(name, layers):
    model = MODELS[name](10, (0.5,) * 3, (0.5,) * 3)
    image = jnp.zeros((2, 32, 32, 3))

    def gaps():
        variables = model.init(KEY, image, train=False)
        counted = jax.tree.leaves(variables["batch_stats"])
        return recover.bind_teacher(model, variables)(image)[1], counted

    found, statistics = jax.eval_shape(gaps)
    assert found.shape == (len(statistics) / 2,) == (layers,)


def test_a_teacher_without_batchnorm_is_refused():
    with pytest.raises(UserError, match="choose a teacher with BatchNorm"):
        recover.bind_teacher(TinyNet(), variables_of(TinyNet()))


@pytest.mark.parametrize("images,classes", [(1, 100), (2, 3), (5, 10), (3, 4)])
def test_chunks_hold_every_image_once_and_classes_together(images, classes):
    chunks = recover.plan_chunks(10, 5, images, classes)
    np.testing.assert_array_equal(np.sort(np.concatenate(chunks)), np.arange(50))
    for chunk in chunks:
        held = np.bincount(chunk % 10, minlength=10)
        assert set(held[held > 0]) <= {images, 5 % images}
        assert np.count_nonzero(held) <= classes
    assert len(chunks) == -(-5 // images) * -(-10 // classes)


def test_recovery_closes_the_gaps_and_makes_the_teacher_agree():
    state, facts = run()
    assert facts["cross_entropy"][-5:].mean() < 0.1 * facts["cross_entropy"][0]
    assert facts["bn_gap"][-5:].mean() < 0.5 * facts["bn_gap"][0]
    expected = facts["cross_entropy"] + 0.1 * facts["bn_gap"]
    np.testing.assert_allclose(facts["loss"], expected, rtol=1e-5)
    assert state.step == 60 and 0 <= state.image.min() and state.image.max() <= 1
    logits = bind(NET, trained(), "running")(state.image)
    np.testing.assert_array_equal(jnp.argmax(logits, -1), LABEL)


def test_a_chunk_is_a_function_of_its_key_however_it_is_cut():
    whole, facts = run()
    again, _ = run()
    pieces, facts_of_pieces = run(counts=(20, 20, 20))
    np.testing.assert_array_equal(whole.image, again.image)
    np.testing.assert_allclose(whole.image, pieces.image, atol=1e-5)
    np.testing.assert_allclose(facts["loss"], facts_of_pieces["loss"], rtol=1e-3)
    other, _ = run(key=jax.random.key(9))
    assert np.abs(whole.image - other.image).mean() > 0.05


def test_a_larger_weight_closes_the_gaps_further():
    teacher = recover.bind_teacher(NET, trained())
    state = recover.start(noise_images(KEY, (20, *SHAPE), MEAN, STD))
    _, free = make(r_bn=0.0)(teacher, state, KEY, LABEL, 60)
    assert run()[1]["bn_gap"][-5:].mean() < 0.5 * free["bn_gap"][-5:].mean()


def test_every_step_draws_a_view_of_its_own():
    fill = lambda key, step, image: 0 * image + jax.random.uniform(key) + step
    teacher = jax.tree_util.Partial(lambda x: (0 * x[:, 0, :, 0], x[:1, 0, 0, 0]))
    image = jnp.zeros((2, 2, 2, 1))
    state = recover.RecoverState(jnp.int32(0), image, recover.ADAM.init(image))
    program = make(fill, std=jnp.ones(1), first_weight=1.0)
    _, facts = program(teacher, state, KEY, jnp.arange(2), 5)
    drawn = facts["bn_gap"] - np.arange(5)
    assert 0 < drawn.min() and drawn.max() < 1 and len(np.unique(drawn)) == 5


def test_the_first_step_is_the_sign_of_the_gradient_in_units_of_std():
    # Adam's first direction is g / |g|; a linear teacher of two classes has the
    # gradient (p - 1) (w_y - w_other), whose sign is known.
    shape, std = (2, 2, 2), jnp.array([0.1, 0.4])
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    logits_fn = linear_logits(weight)
    teacher = jax.tree_util.Partial(lambda x: (logits_fn(x), jnp.zeros(1)))
    image = jnp.asarray(random_images(4, shape=shape))
    state = recover.RecoverState(jnp.int32(0), image, recover.ADAM.init(image))
    label = jnp.array([0, 1, 1, 0])
    step = make(STILL, std=std, learning_rate=0.5, total_steps=4)
    state, _ = step(teacher, state, KEY, label, 1)
    toward = np.sign(weight[:, label] - weight[:, 1 - label]).T.reshape(4, *shape)
    expected = np.clip(image + 0.5 * std.reshape(1, 1, 1, 2) * toward, 0, 1)
    np.testing.assert_allclose(state.image, expected, atol=1e-5)


def test_the_rate_falls_to_zero():
    teacher = recover.bind_teacher(NET, trained())
    state, _ = run()
    later, _ = advance()(teacher, state, KEY, LABEL, 20)
    # The schedule stays at its end.
    np.testing.assert_array_equal(later.image, state.image)


def test_teachers_of_one_architecture_share_a_program():
    image = jnp.asarray(random_images(3, shape=(4, 4, 2)))
    state = recover.RecoverState(jnp.int32(0), image, recover.ADAM.init(image))
    program, made = make(STILL, std=jnp.ones(2)), []
    for seed in (0, 1):
        variables = variables_of(TwoNorms(), seed, (4, 4, 2))
        teacher = recover.bind_teacher(TwoNorms(), variables)
        made.append(program(teacher, state, KEY, jnp.arange(3), 2)[0].image)
    assert program._cache_size() == 1
    assert not np.allclose(*made)


def test_noise_starts_at_the_given_mean_and_spread():
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.02, 0.05, 0.08])
    noise = noise_images(KEY, (40, 16, 16, 3), mean, std)
    found = np.asarray(noise).reshape(-1, 3)
    np.testing.assert_allclose(found.mean(0), mean, atol=0.005)
    np.testing.assert_allclose(found.std(0), std, rtol=0.03)
    wild = noise_images(KEY, (4, 8, 8, 1), (0.5,), (1.0,))
    assert wild.min() == 0 and wild.max() == 1
