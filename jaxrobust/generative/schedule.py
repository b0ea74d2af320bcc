"""Noise schedules: how much of an image is left at time t of the forward process.

`x_t = alpha(t) x_0 + sigma(t) noise` with `alpha^2 + sigma^2 = 1` and t in [0, 1].
Everything is derived from the log signal-to-noise ratio, which stays exact in float32
where `alpha_bar = alpha^2` rounds to one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

LOG_SNR_MAX = 10.0
"""At t = 0: sigma = exp(-5) = 0.0067, less than one step of 8-bit pixels in [-1, 1]."""

LOG_SNR_MIN = -10.0
"""At t = 1: alpha_bar = 4.5e-5, the end of DDPM's own 1000 steps (4.0e-5)."""


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule, given by its log-SNR as a function of t."""

    log_snr: Callable[[Array], Array]
    """t f32[...] in [0, 1] -> log(alpha^2 / sigma^2) f32[...], strictly decreasing."""

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
    return Schedule(lambda t: -2.0 * jnp.log(jnp.tan(first + t * (last - first))))


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

    return Schedule(log_snr)


SCHEDULES = {"cosine": cosine, "linear": linear}


def _sqrt_sigmoid(half: Array) -> Array:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(2.0 * half))
