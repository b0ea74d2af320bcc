"""Deterministic samplers: from noise to images along the probability-flow ODE.

In the coordinates `z = x_t / alpha`, `r = sigma / alpha` the flow reads
`dz/dr = (z - E[x_0 | x_t]) / r`; DDIM is its Euler step, Heun its second-order one.
Row i depends on keys[i] and label[i] alone, so a pool does not depend on how it was
cut into batches. Key rows with `jaxrobust.rng.per_example(key, index)`.

Ref: Karras et al., arXiv:2206.00364, eq. 4 and algorithm 1; Song et al.,
arXiv:2010.02502, eq. 13-14.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxrobust.generative.diffusion import Denoise, normal_rows
from jaxrobust.generative.schedule import Schedule

Sampler = Callable[
    [Array, Denoise, Schedule, Array, tuple[int, ...], np.ndarray], Array
]
"""(keys[B], denoise, schedule, label i32[B], (H,W,C), times) -> f32[B,H,W,C], times
f32[S] from `generative.times`, falling."""

Slope = Callable[[Array, Array], Array]
"""(z, step number) -> dz/dr."""

Advance = Callable[[Slope, Array, Array, Array], Array]
"""(slope, z, step number, dr) -> z at the next step."""


def ddim(
    keys: Array,
    denoise: Denoise,
    schedule: Schedule,
    label: Array,
    shape: tuple[int, ...],
    times: np.ndarray,
) -> Array:
    """DDIM images f32[B,H,W,C] in [0,1]; as many network evaluations as times.

    `z_{i+1} = z_i + (r_{i+1} - r_i) dz/dr(z_i)`; at the end, the posterior mean at the
    last time.

    Ref: Song et al., arXiv:2010.02502, eq. 12 with sigma = 0.
    """
    return _integrate(_euler, keys, denoise, schedule, label, shape, times)


def heun(
    keys: Array,
    denoise: Denoise,
    schedule: Schedule,
    label: Array,
    shape: tuple[int, ...],
    times: np.ndarray,
) -> Array:
    """Heun images f32[B,H,W,C] in [0,1]; `2 S - 1` network evaluations for S times.

    `z_{i+1} = z_i + (r_{i+1} - r_i) (dz/dr(z_i) + dz/dr(euler(z_i))) / 2`; the last
    step is DDIM's. With the times "edm" it is EDM's deterministic sampler.

    Ref: Karras et al., arXiv:2206.00364, algorithm 1.
    """
    return _integrate(_heun, keys, denoise, schedule, label, shape, times)


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "heun": heun}

EVALUATIONS = {"ddim": lambda times: times, "heun": lambda times: 2 * times - 1}
"""How often each asks the network for an image, by the number of times."""


def _euler(slope: Slope, z: Array, i: Array, dr: Array) -> Array:
    return z + dr * slope(z, i)


def _heun(slope: Slope, z: Array, i: Array, dr: Array) -> Array:
    first = slope(z, i)
    second = slope(z + dr * first, i + 1)
    return z + 0.5 * dr * (first + second)


def _integrate(
    advance: Advance,
    keys: Array,
    denoise: Denoise,
    schedule: Schedule,
    label: Array,
    shape: tuple[int, ...],
    times: np.ndarray,
) -> Array:
    levels = jnp.asarray(times)
    alpha, sigma = schedule.alpha_sigma(levels)
    ratio = sigma / alpha

    def clean(z: Array, i: Array) -> Array:
        return denoise(alpha[i] * z, jnp.full(label.shape, levels[i]), label)

    def slope(z: Array, i: Array) -> Array:
        return (z - clean(z, i)) / ratio[i]

    def body(i: Array, z: Array) -> Array:
        return advance(slope, z, i, ratio[i + 1] - ratio[i])

    z = normal_rows(keys, shape) / alpha[0]
    z = lax.fori_loop(0, len(times) - 1, body, z)
    image = 0.5 * (clean(z, jnp.asarray(len(times) - 1)) + 1.0)
    return jnp.clip(image, 0.0, 1.0)
