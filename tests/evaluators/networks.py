"""A small trained network, and what people do to networks that misleads attacks."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from tests import helpers

HIDDEN = 16


def examples(classes=4, count=32, seed=1, wide=False):
    """(image f32[B,4,4,1] or f32[B,4,6,1], label i32[B]) of the bright-row task."""
    images = helpers.image_set(count, seed, classes)
    image = images.image.astype(np.float32) / 255
    if wide:
        image = np.concatenate([image, image[:, :, :2]], axis=2)
    return jnp.asarray(image), jnp.asarray(images.label)


def mlp(weights, image, normalise=lambda h: h):
    """f32[B,H,W,C] -> f32[B,K], one hidden layer."""
    first, second = weights
    hidden = jnp.reshape(image, (len(image), -1)) @ first
    return jnp.tanh(normalise(hidden)) @ second


@cache
def trained(classes=4, wide=False, normalise=lambda h: h):
    """The weights of `mlp` after some steps of gradient descent."""
    image, label = examples(classes, 64, 0, wide)
    draw = np.random.default_rng(0)
    sizes = ((image[0].size, HIDDEN), (HIDDEN, classes))
    weights = tuple(jnp.asarray(0.3 * draw.normal(size=s), jnp.float32) for s in sizes)

    def loss(weights):
        logits = mlp(weights, image, normalise)
        return jnp.mean(losses.cross_entropy(logits, label))

    def step(weights, _):
        move = lambda w, g: w - 0.5 * g
        return jax.tree.map(move, weights, jax.grad(loss)(weights)), None

    return jax.jit(lambda w: jax.lax.scan(step, w, length=200)[0])(weights)


def healthy(classes=4, wide=False):
    """A `logits_fn` without any fault."""
    weights = trained(classes, wide)
    return lambda image: mlp(weights, image)


def rounding():
    """Inputs in ten levels."""
    network = healthy()
    return lambda image: network(jnp.round(image * 10) / 10)


@jax.custom_vjp
def straight_through(x):
    """Rounding that claims to be the identity."""
    return jnp.round(x * 10) / 10


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))


def straight_through_rounding():
    """Inputs in ten levels, with gradients as if they were not."""
    network = healthy()
    return lambda image: network(straight_through(image))


def stop_gradient_rounding():
    """The same without a rule of its own."""
    network, stop = healthy(), jax.lax.stop_gradient
    return lambda image: network(image + stop(jnp.round(image) - image))


def probabilities():
    """A softmax at the end."""
    network = healthy()
    return lambda image: jax.nn.softmax(network(image))


def log_probabilities():
    """Its logarithm."""
    network = healthy()
    return lambda image: jax.nn.log_softmax(network(image))


def noisy():
    """Fresh noise of NumPy's in every call."""
    network, draw = healthy(), np.random.default_rng(0)

    def logits_fn(image):
        shape = jax.ShapeDtypeStruct(image.shape, image.dtype)
        fresh = lambda: 0.01 * draw.normal(size=shape.shape).astype(np.float32)
        return network(image + jax.pure_callback(fresh, shape))

    return logits_fn


def frozen_noise():
    """Noise of NumPy's, drawn anew only when the network is traced."""
    network, draw = healthy(), np.random.default_rng(0)
    return lambda image: network(image) + 0.01 * draw.normal()


def batch_statistics():
    """BatchNorm in training mode."""
    weights = trained(normalise=by_batch)
    return lambda image: mlp(weights, image, by_batch)


def by_batch(hidden):
    """(h - mean) / std over the batch."""
    mean, std = (f(hidden, axis=0, keepdims=True) for f in (jnp.mean, jnp.std))
    return (hidden - mean) / (std + 1e-3)


def large_logits():
    """Logits of ten thousand times the size."""
    network = healthy()
    return lambda image: 1e4 * network(image)
