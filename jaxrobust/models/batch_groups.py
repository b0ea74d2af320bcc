"""BatchNorm over parts of a batch, so that devices need not exchange statistics."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from jaxrobust.errors import UserError


class GroupedBatchNorm(nn.BatchNorm):
    """Batch normalisation of `bn_groups` parts of a batch f32[B,H,W,C], each by its own
    statistics: part i has the rows from i B / bn_groups on, which is what device i of
    as many holds.

    The running statistics move by the mean of the parts'. So the running variance is
    that within a part and leaves out what the means of parts vary by, of the order of
    bn_groups / B of it. One part is `nn.BatchNorm`. Raises `UserError` where the batch
    does not divide.

    Ref: Hoffer et al., arXiv:1705.08741, section 4 (ghost batch normalisation).
    Parameters and statistics are those of `nn.BatchNorm`.
    """

    bn_groups: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if self.use_running_average:
            parts = x[None].astype(jnp.float32)
            mean, var = running_mean.value[None], running_var.value[None]
        else:
            parts = self._parts(x)
            mean = parts.mean((1, 2, 3))
            # Rounding may take the difference below zero.
            var = jnp.maximum((parts**2).mean((1, 2, 3)) - mean**2, 0.0)
            if not self.is_initializing():
                self._move(running_mean, mean)
                self._move(running_var, var)
        over = lambda value: value[:, None, None, None]
        y = (parts - over(mean)) * over(lax.rsqrt(var + self.epsilon) * scale[None])
        return jnp.asarray(y.reshape(x.shape) + bias.reshape(1, 1, 1, -1), self.dtype)

    def _parts(self, x: Array) -> Array:
        """f32[bn_groups,B/bn_groups,H,W,C]."""
        if len(x) % self.bn_groups:
            raise UserError(
                f"a batch of {len(x)} does not divide into bn_groups = "
                f"{self.bn_groups}: choose a number that divides it"
            )
        parts = x.reshape(self.bn_groups, -1, *x.shape[1:])
        return parts.astype(jnp.float32)

    def _move(self, running: nn.Variable, now: Array) -> None:
        """Towards the mean of the parts."""
        kept = self.momentum * running.value
        running.value = kept + (1 - self.momentum) * now.mean(0)
