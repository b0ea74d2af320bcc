"""The forward process, what a network predicts of it, and the loss that teaches it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.generative.schedule import Schedule
from jaxrobust.registry import lookup
from jaxrobust.rng import split_rows

Predict = Callable[[Array, Array, Array], Array]
"""(x_t f32[B,H,W,C], t f32[B], label i32[B]) -> f32[B,H,W,C], the network's output."""

Denoise = Predict
"""The same signature, but the value is `E[x_0 | x_t, label]` in [-1, 1]."""


class Prediction(NamedTuple):
    """What the network is asked for, and how the clean image follows from it."""

    target: Callable[[Array, Array, Array, Array], Array]
    """(alpha, sigma, x_0, noise) -> what the network should say."""
    clean: Callable[[Array, Array, Array, Array], Array]
    """(alpha, sigma, x_t, said) -> x_0."""


PREDICTIONS = {
    "epsilon": Prediction(
        target=lambda alpha, sigma, x_0, noise: noise,
        clean=lambda alpha, sigma, x_t, said: (x_t - sigma * said) / alpha,
    ),
    "v": Prediction(
        target=lambda alpha, sigma, x_0, noise: alpha * noise - sigma * x_0,
        clean=lambda alpha, sigma, x_t, said: alpha * x_t - sigma * said,
    ),
}


def diffuse(schedule: Schedule, t: Array, x_0: Array, noise: Array) -> Array:
    """The forward process, `x_t = alpha(t) x_0 + sigma(t) noise`.

    t f32[B]; x_0 and noise f32[B,H,W,C], x_0 in [-1,1].

    Ref: Ho et al., arXiv:2006.11239, eq. 4.
    """
    alpha, sigma = rows(schedule, t)
    return alpha * x_0 + sigma * noise


def denoising_loss(
    predict: Predict,
    schedule: Schedule,
    keys: Array,
    image: Array,
    label: Array,
    *,
    prediction: str,
) -> Array:
    """The simple diffusion loss of every image, f32[B], at one random time each.

    `L = mean_pixels (predict(x_t, t, label) - target)^2`, t ~ U(0, 1), noise ~ N(0, I),
    target = noise ("epsilon") or `alpha noise - sigma x_0` ("v").
    keys[B]; image f32[B,H,W,C] in [0,1]; label i32[B], the class count where unknown.

    Ref: Ho et al., arXiv:2006.11239, eq. 14; v of Salimans & Ho, arXiv:2202.00512, §4.
    """
    kind = lookup("prediction", PREDICTIONS, prediction)
    time_keys, noise_keys = split_rows(keys)
    t = jax.vmap(jax.random.uniform)(time_keys)
    noise = normal_rows(noise_keys, image.shape[1:])
    x_0 = 2.0 * image - 1.0
    said = predict(diffuse(schedule, t, x_0, noise), t, label)
    error = said - kind.target(*rows(schedule, t), x_0, noise)
    return jnp.mean(jnp.square(error), axis=(1, 2, 3))


def denoiser(predict: Predict, schedule: Schedule, *, prediction: str) -> Denoise:
    """The posterior mean `E[x_0 | x_t, label]` in [-1,1] that a network's output means.

    Clipped, because a mean of pixels in [-1,1] lies there; without it an "epsilon"
    network's error is multiplied by 1 / alpha, about 150 at t = 1.
    """
    kind = lookup("prediction", PREDICTIONS, prediction)

    def denoise(x_t: Array, t: Array, label: Array) -> Array:
        said = predict(x_t, t, label)
        return jnp.clip(kind.clean(*rows(schedule, t), x_t, said), -1.0, 1.0)

    return denoise


def rows(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """`(alpha, sigma)` of t f32[B], each f32[B,1,1,1]."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha[:, None, None, None], sigma[:, None, None, None]


def normal_rows(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal f32[B,*shape], row i a function of keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
