"""The forward process, what a network predicts of it, and the loss that teaches it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.errors import UserError
from jaxrobust.generative.schedule import Schedule
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
    scale: Callable[[Array, Array], Array]
    """(alpha, sigma) -> the factor on x_t before the network sees it."""


def epsilon() -> Prediction:
    """The network says the noise. Ref: Ho et al., arXiv:2006.11239, eq. 11 and 14."""
    return Prediction(
        target=lambda alpha, sigma, x_0, noise: noise,
        clean=lambda alpha, sigma, x_t, said: (x_t - sigma * said) / alpha,
        scale=lambda alpha, sigma: jnp.ones_like(alpha),
    )


def v() -> Prediction:
    """The network says `v = alpha noise - sigma x_0`.

    Ref: Salimans & Ho, arXiv:2202.00512, section 4.
    """
    return Prediction(
        target=lambda alpha, sigma, x_0, noise: alpha * noise - sigma * x_0,
        clean=lambda alpha, sigma, x_t, said: alpha * x_t - sigma * said,
        scale=lambda alpha, sigma: jnp.ones_like(alpha),
    )


def edm(sigma_data: float) -> Prediction:
    """EDM's preconditioning: input and target have variance 1 at every noise level for
    pixels of standard deviation `sigma_data` in [-1,1].

    With s = sigma_data and `q^2 = alpha^2 s^2 + sigma^2`, the variance of x_t: the
    network sees `x_t / q`, says F, and the clean image is
    `c_skip x_t + c_out F`, `c_skip = alpha s^2 / q^2`, `c_out = sigma s / q`.
    The squared error of F is EDM's loss: its weight is `1 / c_out^2`.

    Ref: Karras et al., arXiv:2206.00364, table 1 and eq. 7-8, rewritten from
    `x_t / alpha` and `sigma / alpha`; with s = 1 it is "v" but for the sign.
    """
    if not sigma_data > 0:
        raise UserError(f"sigma_data is {sigma_data}: give pixels' spread, such as 0.5")
    power = sigma_data**2

    def spread(alpha: Array, sigma: Array) -> Array:
        return jnp.sqrt(alpha**2 * power + sigma**2)

    def target(alpha: Array, sigma: Array, x_0: Array, noise: Array) -> Array:
        # (x_0 - c_skip x_t) / c_out, written so that nothing cancels.
        difference = sigma * x_0 - alpha * power * noise
        return difference / (sigma_data * spread(alpha, sigma))

    def clean(alpha: Array, sigma: Array, x_t: Array, said: Array) -> Array:
        q = spread(alpha, sigma)
        return alpha * power / q**2 * x_t + sigma * sigma_data / q * said

    return Prediction(target, clean, lambda alpha, sigma: 1.0 / spread(alpha, sigma))


PREDICTIONS = {"edm": edm, "epsilon": epsilon, "v": v}


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
    prediction: Prediction,
    keys: Array,
    image: Array,
    label: Array,
) -> Array:
    """The simple diffusion loss of every image, f32[B], at one random time each.

    `L = mean_pixels (predict(scale x_t, t, label) - target)^2`, t as the schedule draws
    it, noise ~ N(0, I), scale and target as the prediction says.
    keys[B]; image f32[B,H,W,C] in [0,1]; label i32[B], the class count where unknown.

    Ref: Ho et al., arXiv:2006.11239, eq. 14; Karras et al., arXiv:2206.00364, eq. 8.
    """
    time_keys, noise_keys = split_rows(keys)
    t = schedule.draw_times(time_keys)
    noise = normal_rows(noise_keys, image.shape[1:])
    x_0 = 2.0 * image - 1.0
    alpha, sigma = rows(schedule, t)
    x_t = alpha * x_0 + sigma * noise
    said = predict(prediction.scale(alpha, sigma) * x_t, t, label)
    error = said - prediction.target(alpha, sigma, x_0, noise)
    return jnp.mean(jnp.square(error), axis=(1, 2, 3))


def drop_labels(keys: Array, label: Array, unknown: int, percent: float) -> Array:
    """Labels i32[B] of which `percent` per cent, by chance, became `unknown`.

    Ref: Ho & Salimans, arXiv:2207.12598, algorithm 1.
    """
    dropped = 100.0 * jax.vmap(jax.random.uniform)(keys) < percent
    return jnp.where(dropped, unknown, label)


def guided(predict: Predict, unknown: int, weight: float) -> Predict:
    """Classifier-free guidance: `F(unknown) + weight (F(label) - F(unknown))`.

    weight 1 is `predict` itself and costs no second evaluation; above 1, images are
    more typical of their class and less varied. Every prediction is affine in F, so
    this guides the noise and the clean image alike.

    Ref: Ho & Salimans, arXiv:2207.12598, eq. 6, where the weight is 1 + w.
    """
    if weight == 1.0:
        return predict

    def mixed(x_t: Array, t: Array, label: Array) -> Array:
        without = predict(x_t, t, jnp.full_like(label, unknown))
        return without + weight * (predict(x_t, t, label) - without)

    return mixed


def denoiser(predict: Predict, schedule: Schedule, prediction: Prediction) -> Denoise:
    """The posterior mean `E[x_0 | x_t, label]` in [-1,1] that a network's output means.

    Clipped, because a mean of pixels in [-1,1] lies there; without it an "epsilon"
    network's error is multiplied by 1 / alpha, about 150 at t = 1.
    """

    def denoise(x_t: Array, t: Array, label: Array) -> Array:
        alpha, sigma = rows(schedule, t)
        said = predict(prediction.scale(alpha, sigma) * x_t, t, label)
        return jnp.clip(prediction.clean(alpha, sigma, x_t, said), -1.0, 1.0)

    return denoise


def rows(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """`(alpha, sigma)` of t f32[B], each f32[B,1,1,1]."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha[:, None, None, None], sigma[:, None, None, None]


def normal_rows(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal f32[B,*shape], row i a function of keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
