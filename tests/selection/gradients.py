"""Last-layer gradients to choose from: made up, and those of a network on digits."""

import jax.numpy as jnp
import numpy as np

from jaxrobust import features
from jaxrobust.data.digits import digits
from jaxrobust.features import Factors


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def factors_of(logits, embedding, label):
    """Of cross-entropy, one branch."""
    delta = softmax(logits) - np.eye(logits.shape[1])[label]
    part = lambda x: jnp.asarray(x[:, None], jnp.float32)
    return Factors(part(delta), part(embedding))


def clustered(count, classes, seed, depth=6, spread=0.2):
    """(factors, label i64[count]): three clusters of gradients in each class."""
    draw = np.random.default_rng(seed)
    label = draw.permutation(np.arange(count) % classes)
    kind = draw.integers(0, 3, count)
    logits = draw.normal(size=(classes, 3, classes))[label, kind]
    embedding = draw.normal(size=(classes, 3, depth))[label, kind]
    noise = lambda x: x + spread * draw.normal(size=x.shape)
    return factors_of(noise(logits), noise(embedding), label), label


def digits_gradients(count=600, steps=60):
    """(factors, label) of a softmax regression after a little training."""
    images = digits("train")
    pixels = images.image[:count].reshape(count, -1) / 255.0
    label = np.asarray(images.label[:count])
    weight, bias = np.zeros((64, 10)), np.zeros(10)
    for _ in range(steps):
        delta = softmax(pixels @ weight + bias) - np.eye(10)[label]
        weight -= 0.5 * pixels.T @ delta / count
        bias -= 0.5 * delta.mean(axis=0)
    return factors_of(pixels @ weight + bias, pixels, label), label


def random_error(factors, budget, draws=10):
    """The mean gradient error of uniform subsets with weights that sum to N."""
    count = len(factors.delta)
    weight = jnp.full(budget, count / budget)
    chosen = [
        np.random.default_rng(seed).choice(count, budget, replace=False)
        for seed in range(draws)
    ]
    found = [features.relative_error(factors, jnp.asarray(i), weight) for i in chosen]
    return float(np.mean(found))
