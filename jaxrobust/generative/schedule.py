"""Noise schedules: how much of an image is left at time t of the forward process.

`x_t = alpha(t) x_0 + sigma(t) noise` with `alpha^2 + sigma^2 = 1` and t in [0, 1].
Everything is derived from the log signal-to-noise ratio, which stays exact in float32
where `alpha_bar = alpha^2` rounds to one. EDM's noise level is `sigma / alpha`, i.e.
`exp(-log_snr / 2)`, for images in [-1, 1] as here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

LOG_SNR_MAX = 10.0
"""At t = 0: sigma = exp(-5) = 0.0067, less than one step of 8-bit pixels in [-1, 1]."""

LOG_SNR_MIN = -10.0
"""At t = 1: alpha_bar = 4.5e-5, the end of DDPM's own 1000 steps (4.0e-5)."""

EDM_LOG_SNR_MAX = 13.0
"""At t = 0 of "edm": a noise level of 0.0015; its sampler ends at 0.002."""


def uniform_times(keys: Array) -> Array:
    """t ~ U(0, 1), f32[B], row i a function of keys[i] alone."""
    return jax.vmap(jax.random.uniform)(keys)


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule, given by its log-SNR as a function of t."""

    log_snr: Callable[[Array], Array]
    """t f32[...] in [0, 1] -> log(alpha^2 / sigma^2) f32[...], strictly decreasing."""
    time: Callable[[Array], Array]
    """The inverse of `log_snr`."""
    draw_times: Callable[[Array], Array] = uniform_times
    """keys[B] -> t f32[B]: how often training sees each time."""

    def alpha_bar(self, t: Array) -> Array:
        """The share of signal power, `alpha(t)^2 = sigmoid(log_snr(t))`."""
        return jax.nn.sigmoid(self.log_snr(t))

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """`(alpha, sigma)` with `alpha^2 + sigma^2 = 1`, both shaped like t."""
        half = 0.5 * self.log_snr(t)
        return _sqrt_sigmoid(half), _sqrt_sigmoid(-half)


def cosine() -> Schedule:
    """The cosine schedule, `alpha(t) = cos(u(t))` with u linear in t.

    `log_snr(t) = -2 log tan(u_0 + t (u_1 - u_0))`; u_0 and u_1 give the log-SNR limits.

    Ref: Nichol & Dhariwal, arXiv:2102.09672, eq. 17, in the continuous form of
    Hoogeboom et al., arXiv:2301.11093, eq. 2.
    Deviates: truncated at a log-SNR of +-10 instead of the offset s = 0.008 and the
    clip of beta at 0.999, which do not carry over to continuous time.
    """
    first = jnp.arctan(jnp.exp(-0.5 * LOG_SNR_MAX))
    last = jnp.arctan(jnp.exp(-0.5 * LOG_SNR_MIN))
    return Schedule(
        log_snr=lambda t: -2.0 * jnp.log(jnp.tan(first + t * (last - first))),
        time=lambda y: (jnp.arctan(jnp.exp(-0.5 * y)) - first) / (last - first),
    )


def linear() -> Schedule:
    """The VP schedule with beta linear in time, the continuous limit of DDPM's.

    `alpha_bar(t) = exp(-beta_0 s - (beta_1 - beta_0) s^2 / 2)`, beta_0 = 0.1,
    beta_1 = 20, `s = s_0 + t (1 - s_0)`.

    Ref: Song et al., arXiv:2011.13456, eq. 32-33; s_0 = 1e-5 is its training cut-off.
    """
    low, high, start = 0.1, 20.0, 1e-5

    def log_snr(t: Array) -> Array:
        s = start + t * (1.0 - start)
        decay = low * s + 0.5 * (high - low) * s**2
        return -decay - jnp.log(-jnp.expm1(-decay))

    def time(log_snr: Array) -> Array:
        decay = jax.nn.softplus(-log_snr)
        root = jnp.sqrt(low**2 + 2.0 * (high - low) * decay)
        # Not (root - low) / (high - low): that loses its digits near the clean image.
        s = 2.0 * decay / (root + low)
        return (s - start) / (1.0 - start)

    return Schedule(log_snr, time)


def edm(log_sigma_mean: float, log_sigma_std: float) -> Schedule:
    """EDM's schedule: time is linear in the log noise level, which training draws from
    `N(log_sigma_mean, log_sigma_std^2)`.

    A network that is told t is told EDM's `c_noise = ln(sigma) / 4`, scaled to [0, 1].

    Ref: Karras et al., arXiv:2206.00364, table 1 (-1.2 and 1.2 for CIFAR-10).
    Deviates: draws are clipped to the schedule's ends, 0.0015 and 148; with the
    published numbers that is one draw in 10 million.
    """
    span = EDM_LOG_SNR_MAX - LOG_SNR_MIN

    def draw_times(keys: Array) -> Array:
        normal = jax.vmap(jax.random.normal)(keys)
        log_sigma = log_sigma_mean + log_sigma_std * normal
        return jnp.clip((EDM_LOG_SNR_MAX + 2.0 * log_sigma) / span, 0.0, 1.0)

    return Schedule(
        log_snr=lambda t: EDM_LOG_SNR_MAX - span * t,
        time=lambda y: (EDM_LOG_SNR_MAX - y) / span,
        draw_times=draw_times,
    )


SCHEDULES = {"cosine": cosine, "edm": edm, "linear": linear}


def noise_level_limits(schedule: Schedule) -> tuple[float, float]:
    """The least and the greatest `sigma / alpha` of a schedule."""
    high, low = schedule.log_snr(jnp.array([0.0, 1.0])).tolist()
    return math.exp(-0.5 * high), math.exp(-0.5 * low)


def _sqrt_sigmoid(half: Array) -> Array:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(2.0 * half))
