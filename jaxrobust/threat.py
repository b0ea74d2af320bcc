"""What the adversary may do: the one place where eps is written."""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jaxrobust import rng
from jaxrobust.errors import UserError, unknown_name

NORMS = ("linf", "l2", "l1")
SLACK = 1e-6
"""What rounding may add to a distance: this much, and this share of eps."""
_TINY = 1e-12
_HALVINGS = 26


@struct.dataclass
class ThreatModel:
    """The ball {x : ||x - image|| <= eps} within `bounds`, in [0,1] pixels.

    `eps` is a leaf of the tree, so a compiled attack serves every radius; `norm` and
    `bounds` are static.
    """

    eps: Array | float
    norm: str = struct.field(pytree_node=False)
    bounds: tuple[float, float] = struct.field(pytree_node=False, default=(0.0, 1.0))

    def clip(self, x: Array) -> Array:
        """Clip to the range of valid pixels."""
        return jnp.clip(x, *self.bounds)

    def project(self, x: Array, image: Array) -> Array:
        """The nearest point of the ball, then of the box; shapes f32[B,H,W,C].

        The box holds `image`, so the second step never leaves the ball. In l1 it is the
        nearest point of both at once: clipping afterwards would waste the radius.
        """
        delta = x - image
        if self.norm == "linf":
            return self.clip(image + jnp.clip(delta, -self.eps, self.eps))
        if self.norm == "l1":
            low, high = self.bounds
            room = jnp.where(delta > 0, high - image, image - low)
            size = _shrink(jnp.abs(delta), jnp.maximum(room, 0.0), self.eps)
            return self.clip(image + jnp.sign(delta) * size)
        size = _row_norm(delta)
        return self.clip(image + delta * jnp.minimum(1.0, self.eps / (size + _TINY)))

    def random_init(self, keys: Array, image: Array) -> Array:
        """A uniform draw from the ball around each image, clipped to the box."""
        if self.norm == "linf":
            draw = lambda key: jax.random.uniform(key, image.shape[1:], minval=-1.0)
            return self.clip(image + self.eps * jax.vmap(draw)(keys))
        to_direction, to_radius = rng.split_rows(keys)
        source = jax.random.laplace if self.norm == "l1" else jax.random.normal
        draw = lambda key: source(key, image.shape[1:])
        direction = jax.vmap(draw)(to_direction)
        uniform = jax.vmap(jax.random.uniform)(to_radius)[:, None, None, None]
        radius = self.eps * uniform ** (1.0 / image[0].size)
        size = self.distance(direction, jnp.zeros_like(direction))
        return self.clip(image + radius * direction / column(size + _TINY))

    def steepest(self, gradient: Array) -> Array:
        """The unit step that raises a linear loss most: sign(g), g / ||g||_2, or in l1
        all of it on the coordinate of the largest |g| (shared by equal ones)."""
        if self.norm == "linf":
            return jnp.sign(gradient)
        if self.norm == "l2":
            return gradient / (_row_norm(gradient) + _TINY)
        size = jnp.abs(gradient)
        largest = (size >= jnp.max(size, (1, 2, 3), keepdims=True)) & (size > 0)
        count = jnp.sum(largest, (1, 2, 3), keepdims=True)
        return jnp.sign(gradient) * largest / jnp.maximum(count, 1)

    def distance(self, x: Array, image: Array) -> Array:
        """||x - image|| in the norm of the threat, f32[B]."""
        delta = (x - image).reshape(len(image), -1)
        if self.norm == "linf":
            return jnp.max(jnp.abs(delta), axis=1)
        if self.norm == "l1":
            return jnp.sum(jnp.abs(delta), axis=1)
        return jnp.sqrt(jnp.sum(delta**2, axis=1))

    def contains(self, x: Array, image: Array) -> Array:
        """Whether x is in the ball (to rounding) and in the box, bool[B]; what is not
        finite is in neither, as no comparison with NaN holds."""
        flat, (low, high) = x.reshape(len(x), -1), self.bounds
        inside = jnp.all((flat >= low) & (flat <= high), axis=1)
        near = self.distance(x, image) <= jnp.reshape(self.reach, (-1,))
        return inside & near

    @property
    def reach(self) -> Array | float:
        """The largest distance that counts as eps, in the shape of eps."""
        return self.eps * (1 + SLACK) + SLACK

    def eps_of_rows(self, image: Array) -> Array:
        """eps f32[B], one for each row of images f32[B,H,W,C]."""
        return jnp.broadcast_to(self.eps, (len(image), 1, 1, 1))[:, 0, 0, 0]


def column(values: Array) -> Array:
    """[B] as [B,1,1,1], to meet images."""
    return values[:, None, None, None]


def make_threat(norm: str, eps: float) -> ThreatModel:
    """A checked `ThreatModel` over pixels in [0,1].

    Raises `UserError` for an unknown norm and for an eps in the wrong unit.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    if not eps >= 0:
        raise UserError(f"threat.eps must be >= 0, not {eps}")
    if norm == "linf" and eps > 1:
        raise UserError(
            f"threat.eps = {eps:g} looks like 8-bit units: images are in [0,1], "
            f"so write {eps:g} / 255 = {eps / 255:.6f}"
        )
    if norm == "l2" and eps > 60:
        raise UserError(
            f"threat.eps = {eps:g} looks like 8-bit units: images are in [0,1], "
            f"so the usual CIFAR-10 radius is 0.5, written 128 / 255"
        )
    return ThreatModel(eps=float(eps), norm=norm)


def format_eps(threat: ThreatModel) -> str:
    """eps as people of the field write it, e.g. `8/255` or `0.15`."""
    in_255 = float(threat.eps) * 255
    if threat.norm == "linf" and abs(in_255 - round(in_255)) < 1e-3:
        return f"{round(in_255)}/255"
    return f"{float(threat.eps):.4g}"


def _row_norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3), keepdims=True))


def _shrink(size: Array, room: Array, eps: Array | float) -> Array:
    """min(max(size - a, 0), room) with the least a >= 0 that sums to at most eps.

    The sum falls with a: halve the bracket, then solve its last, linear piece. A sort
    of all pixels would give the same and take XLA:CPU ten times as long.
    """

    def shrunk(a: Array) -> Array:
        return jnp.minimum(jnp.maximum(size - a, 0.0), room)

    def total(a: Array) -> Array:
        # A product with ones: XLA:CPU does not vectorise sums along a row.
        rows = shrunk(a).reshape(len(size), -1)
        ones = jnp.ones((rows.shape[1], 1))
        summed = jnp.dot(rows, ones, precision=jax.lax.Precision.HIGHEST)
        return summed[:, :, None, None]

    def halve(_, bracket: tuple[Array, Array]):
        low, high = bracket
        middle = (low + high) / 2
        above = total(middle) > eps
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low = jnp.zeros_like(size[:, :1, :1, :1])
    high = jnp.max(size, (1, 2, 3), keepdims=True)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    moving = (size > high) & (size - high < room)
    count = jnp.sum(moving, (1, 2, 3), keepdims=True)
    exact = high - (eps - total(high)) / jnp.maximum(count, 1)
    fits = total(jnp.zeros_like(low)) <= eps
    return jnp.where(fits, shrunk(jnp.zeros_like(low)), shrunk(jnp.maximum(exact, low)))
