"""At which times a sampler asks the network: from pure noise down to nearly clean.

Each entry of TIMES is `(schedule, ...) -> f32[S]` on the host, strictly falling within
[0, 1]; after the last time a sampler takes the posterior mean.
"""

import jax.numpy as jnp
import numpy as np

from jaxrobust.errors import UserError
from jaxrobust.generative.schedule import Schedule, noise_level_limits


def uniform(schedule: Schedule, num_steps: int) -> np.ndarray:
    """`t_i = 1 - i / num_steps`, i = 0 .. num_steps - 1.

    On digits with the cosine schedule as good as "edm" at 12 and at 18 steps.
    """
    _check(num_steps)
    return np.asarray(1.0 - jnp.arange(num_steps) / num_steps)


def edm(
    schedule: Schedule,
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
) -> np.ndarray:
    """The times of the noise levels `sigma_i`, equidistant after the root of order rho.

    `sigma_i^(1/rho)` goes evenly from that of `sigma_max` to that of `sigma_min`, in
    units of images in [-1,1]. Raises `UserError` for levels outside the schedule.

    Ref: Karras et al., arXiv:2206.00364, eq. 5: 0.002, 80, 7; 18 steps for CIFAR-10.
    """
    _check(num_steps)
    low, high = noise_level_limits(schedule)
    if not low <= sigma_min < sigma_max <= high or not rho > 0:
        raise UserError(
            f"sampler_steps: sigma_min {sigma_min:g} and sigma_max {sigma_max:g} must "
            f"rise within the schedule's {low:.2g} to {high:.3g}, with rho above 0"
        )
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigma = np.linspace(first, last, num_steps) ** rho
    return np.asarray(schedule.time(jnp.asarray(-2.0 * np.log(sigma), jnp.float32)))


TIMES = {"edm": edm, "uniform": uniform}


def _check(num_steps: int) -> None:
    if num_steps < 1:
        raise UserError(f"a sampler needs at least one step, not {num_steps}")
