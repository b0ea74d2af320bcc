"""Siamese augmentation: one movement for both sets, and gradients through it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxrobust.distill.dsa import OPS, PUBLISHED, affine, make_dsa, mirror
from jaxrobust.errors import UserError
from tests.helpers import random_images

COUNT, SHAPE = 6, (8, 7, 3)
IMAGE = jnp.asarray(random_images(COUNT, shape=SHAPE))
SIXTY = jnp.tile(IMAGE[:1], (60, 1, 1, 1))
MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
FILL = jnp.asarray(MEAN)
turn = jax.jit(affine)
ZERO = type(PUBLISHED)(*[0.0] * len(PUBLISHED))
KEYS = jax.random.split(jax.random.key(5), 24)
EACH = pytest.mark.parametrize("op", OPS)


@cache
def make(*ops, siamese=True, strengths=PUBLISHED):
    return jax.jit(make_dsa(ops, strengths, MEAN, STD, siamese))


def sure_flip(siamese=True):
    return make("flip", siamese=siamese, strengths=PUBLISHED._replace(flip=1.0))


@EACH
def test_real_and_synthetic_images_are_moved_alike(op):
    for key in KEYS[:3]:
        real = make(op)(key, IMAGE)
        np.testing.assert_array_equal(make(op)(key, IMAGE[:2]), real[:2])
    again = jnp.concatenate([IMAGE[:1]] * 3)
    moved = np.asarray(make(op)(KEYS[3], again))
    np.testing.assert_array_equal(moved, np.repeat(moved[:1], 3, axis=0))


@EACH
def test_keys_and_rows_differ_where_they_should(op):
    moved = np.asarray([make(op)(key, IMAGE[:1])[0] for key in KEYS])
    assert len(np.unique(moved.reshape(len(KEYS), -1), axis=0)) > 1
    again = jnp.concatenate([IMAGE[:1]] * 24)
    rows = np.asarray(make(op, siamese=False)(KEYS[0], again))
    assert len(np.unique(rows.reshape(24, -1), axis=0)) > 1


@EACH
@pytest.mark.parametrize("siamese", (True, False))
def test_zero_strength_is_the_identity(op, siamese):
    still = make(op, siamese=siamese, strengths=ZERO)
    np.testing.assert_array_equal(still(KEYS[0], IMAGE), IMAGE)


def test_no_operation_is_the_identity():
    assert make_dsa((), PUBLISHED, MEAN, STD, True)(KEYS[0], IMAGE) is IMAGE


@EACH
def test_gradients_pass_through(op):
    """Each operation is affine in the pixels, so its derivative is its difference."""
    draw = np.random.default_rng(0)
    v, w = (jnp.asarray(draw.normal(size=IMAGE.shape), jnp.float32) for _ in range(2))
    for key in KEYS[:2]:
        value = lambda x, key=key: jnp.sum(w * make(op)(key, x))
        slope = jnp.sum(jax.grad(value)(IMAGE) * v)
        difference = value(IMAGE + v) - value(IMAGE)
        np.testing.assert_allclose(slope, difference, rtol=1e-3, atol=1e-2)
        assert abs(slope) > 0.1


def test_flipping_twice_is_the_identity():
    flipped = sure_flip()(KEYS[0], IMAGE)
    np.testing.assert_array_equal(flipped, IMAGE[:, :, ::-1])
    np.testing.assert_array_equal(sure_flip(False)(KEYS[1], flipped), IMAGE)
    np.testing.assert_array_equal(mirror(mirror(IMAGE[0])), IMAGE[0])


def test_color_is_as_published_in_normalised_units():
    drawn = jax.jit(lambda key: jax.random.split(key)[1])(KEYS[0])
    u = np.asarray(jax.random.uniform(drawn, (3,), minval=-1.0, maxval=1.0)) / 2 + 0.5
    x = (np.asarray(IMAGE, np.float64) - MEAN) / STD
    x = x + (u[0] - 0.5) * 1.0
    gray = x.mean(axis=3, keepdims=True)
    x = (x - gray) * (u[1] * 2.0) + gray
    level = x.mean(axis=(1, 2, 3), keepdims=True)
    x = (x - level) * (u[2] + 0.5) + level
    np.testing.assert_allclose(
        make("color")(KEYS[0], IMAGE), x * STD + MEAN, rtol=1e-4, atol=1e-5
    )


def test_a_crop_is_a_window_of_the_image_padded_with_the_mean():
    padded = np.broadcast_to(np.float32(MEAN), (10, 9, 3)).copy()
    padded[1:9, 1:8] = IMAGE[0]
    seen = set()
    for row in np.asarray(make("crop", siamese=False)(KEYS[0], SIXTY)):
        found = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(padded[y : y + 8, x : x + 7], row)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 9


def test_cutout_is_a_box_of_the_mean_that_the_border_may_cut():
    areas = set()
    for row in np.asarray(make("cutout", siamese=False)(KEYS[0], SIXTY)):
        hole = (row == np.float32(MEAN)).all(axis=2)
        np.testing.assert_array_equal(row[~hole], np.asarray(IMAGE[0])[~hole])
        rows, columns = hole.any(1), hole.any(0)
        np.testing.assert_array_equal(hole, rows[:, None] & columns[None, :])
        areas.add((rows.sum(), columns.sum()))
    assert max(areas) == (4, 4) and 2 <= min(areas)[0] < 4


@pytest.mark.parametrize("quarter", range(4))
def test_a_quarter_turn_is_exact(quarter):
    square = IMAGE[0, :7]
    sine, cosine = np.sin(quarter * np.pi / 2), np.cos(quarter * np.pi / 2)
    matrix = jnp.asarray([[cosine, sine], [-sine, cosine]], jnp.float32)
    turned = np.asarray(turn(square, matrix, FILL))
    np.testing.assert_allclose(turned, np.rot90(square, quarter), atol=1e-5)


@pytest.mark.parametrize(
    "matrix", ([[0.8, 0.0], [0.0, 1.3]], [[0.9, 0.4], [-0.4, 0.9]], [[2, 1], [0, 3]])
)
def test_affine_agrees_with_scipy(matrix):
    center = (np.array(SHAPE[:2]) - 1) / 2
    offset = center - np.asarray(matrix) @ center
    ours = turn(IMAGE[0], jnp.asarray(matrix, jnp.float32), FILL)
    for channel, fill in enumerate(MEAN):
        plane = np.asarray(IMAGE[0, ..., channel], np.float64)
        theirs = ndimage.affine_transform(
            plane, matrix, offset, order=1, mode="grid-constant", cval=fill
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-5)


def matrices(op):
    """f64[60,2,2] that an operation reads with, off an image whose pixels hold their
    own row and column."""
    ramp = jnp.stack(jnp.mgrid[:8, :7], axis=-1).astype(jnp.float32)
    ramp = jnp.concatenate([ramp, ramp[..., :1]], axis=-1)
    moved = make(op, siamese=False)(KEYS[1], jnp.tile(ramp[None], (60, 1, 1, 1)))
    moved = np.asarray(moved, np.float64)[..., :2]
    down, right = (moved[:, y, x] - moved[:, 3, 3] for y, x in ((4, 3), (3, 4)))
    np.testing.assert_allclose(moved[:, 3, 3] + down / 2, [[3.5, 3]] * 60, atol=1e-5)
    return np.stack([down, right], axis=2)


def test_scale_reads_each_axis_with_a_factor_of_its_own():
    read = matrices("scale")
    factors = read[:, [0, 1], [0, 1]]
    np.testing.assert_allclose(read[:, [0, 1], [1, 0]], 0, atol=1e-5)
    assert 1 / 1.2 - 1e-5 <= factors.min() < 0.87 and 1.15 < factors.max() <= 1.2 + 1e-5
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.5


def test_rotate_turns_by_up_to_15_degrees_either_way():
    read = matrices("rotate")
    unit = np.broadcast_to(np.eye(2), read.shape)
    np.testing.assert_allclose(read @ read.transpose(0, 2, 1), unit, atol=1e-5)
    degrees = np.rad2deg(np.arctan2(read[:, 0, 1], read[:, 0, 0]))
    assert -15.001 <= degrees.min() < -12 and 12 < degrees.max() <= 15.001


def test_every_operation_is_drawn_and_one_program_serves_all():
    traces = []
    ops = ("flip", "cutout", "crop")
    augment = make_dsa(ops, PUBLISHED._replace(flip=1.0), MEAN, STD, True)

    @jax.jit
    def counted(key, image):
        traces.append(key)
        return augment(key, image)

    flips = holes = 0
    for key in jax.random.split(jax.random.key(1), 30):
        moved = np.asarray(counted(key, IMAGE[:1]))[0]
        flips += np.array_equal(moved, IMAGE[0, :, ::-1])
        holes += (moved == np.float32(MEAN)).all(axis=2).any()
    assert 3 <= flips <= 17 and 3 <= holes <= 30 - flips
    assert len(traces) == 1


def test_an_unknown_operation_is_refused():
    with pytest.raises(UserError, match="did you mean flip"):
        make_dsa(("flipp",), PUBLISHED, MEAN, STD, True)
    with pytest.raises(UserError, match="mean has 3 numbers, std 1"):
        make_dsa(("flip",), PUBLISHED, MEAN, (0.5,), True)
