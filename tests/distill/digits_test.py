"""Ten images that were distilled teach more than ten real ones."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxrobust import losses
from jaxrobust.data.digits import digits
from jaxrobust.distill.dc import gradient_match
from jaxrobust.distill.dm import feature_match
from jaxrobust.distill.dsa import unchanged
from jaxrobust.distill.images import image_sgd, noise_images
from jaxrobust.distill.matching import layerwise
from jaxrobust.distill.outer import Loops, init_state, inner_loop, make_outer_step
from jaxrobust.objectives.standard import standard
from jaxrobust.state import create_state, init_variables

SHAPE, CLASSES, REAL = (8, 8, 1), 10, 80
MEAN, STD = (0.3,), (0.35,)
TX = optax.sgd(0.1)
KEYS = jax.random.split(jax.random.key(0), 3)


class Net(nn.Module):
    """64 normalised pixels, 32 hidden units, 10 logits."""

    @nn.compact
    def __call__(self, image, train):
        """f32[B,8,8,1] -> f32[B,10]."""
        x = (image.reshape(len(image), -1) - MEAN[0]) / STD[0]
        x = nn.relu(nn.Dense(32)(x))
        if not self.is_initializing():
            self.sow("intermediates", "embedding", x)
        return nn.Dense(CLASSES)(x)


NET = Net()
MATCHES = {
    "dc": gradient_match(NET, standard(), lambda *_: _[2], layerwise, unchanged),
    "dm": feature_match(NET, unchanged),
}


def fresh(key):
    return create_state(init_variables(NET, SHAPE, key), TX, with_ema=False)


def train(network, batch, key):
    def loss(params):
        logits = NET.apply({"params": params}, batch.image, train=True)
        return jnp.mean(losses.cross_entropy(logits, batch.label))

    updates, opt_state = TX.update(jax.grad(loss)(network.params), network.opt_state)
    params = optax.apply_updates(network.params, updates)
    return network.replace(params=params, opt_state=opt_state), {}


@cache
def real_images():
    """f32[10,80,8,8,1] of the training split, NumPy's."""
    split = digits("train")
    image = split.image.astype(np.float32) / 255
    by_class = [image[split.label == k][:REAL] for k in range(CLASSES)]
    return np.stack(by_class)


@cache
def scorer():
    split = digits("test")
    image = split.image.astype(np.float32) / 255

    @jax.jit
    def accuracy(images, key):
        network = inner_loop(train, fresh(key), images, key, 100, 256)
        logits = NET.apply({"params": network.params}, image, train=False)
        return jnp.mean(jnp.argmax(logits, axis=1) == split.label)

    return lambda images: [float(accuracy(images, key)) for key in KEYS]


@cache
def control():
    """Accuracies with one real image of each class: 3 draws, 3 networks each."""
    return [acc for i in range(3) for acc in scorer()(real_images()[:, i : i + 1])]


@pytest.mark.parametrize("method", MATCHES)
def test_distilled_images_beat_as_many_real_ones(method):
    tx = image_sgd(0.3, 0.5, STD)
    step = make_outer_step(MATCHES[method], fresh, train, tx, Loops(1, 1), 256, True)
    noise = noise_images(jax.random.key(4), (CLASSES, 1, *SHAPE), MEAN, STD)
    body = lambda state, _: step(state, jnp.asarray(real_images()), jax.random.key(2))
    program = jax.jit(lambda state: jax.lax.scan(body, state, None, length=80))
    state, facts = program(init_state(noise, tx, fresh))
    distance = np.asarray(facts["distance"])
    assert distance[-10:].mean() < 0.7 * distance[:10].mean()
    assert min(scorer()(state.image)) > max(control())
    assert state.image.min() >= 0 and state.image.max() <= 1
