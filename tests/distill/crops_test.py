"""Crops are bilinear, boxes lie in the image, shared means shared."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxrobust.distill import crops
from tests.helpers import image_keys, random_images

KEY = jax.random.key(4)
COUNT, SIDE = 6, 8
IMAGE = jnp.asarray(random_images(COUNT, shape=(SIDE, SIDE, 2)))
RATIO = (3 / 4, 4 / 3)
WIDE = {"scale": (0.2, 0.6), "ratio": RATIO}
MANY = image_keys(np.arange(2000))


def boxes(height, width, scale, ratio):
    """Corners and sides f32[2000] of as many draws."""
    draw = partial(
        crops.random_box, height=height, width=width, scale=scale, ratio=ratio
    )
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(MANY))


def bilinear(image, box):
    """The crop by SciPy, channel by channel."""
    height, width, depth = image.shape
    y = box.top + (np.arange(height) + 0.5) * box.height / height - 0.5
    x = box.left + (np.arange(width) + 0.5) * box.width / width - 0.5
    grid = np.meshgrid(y, x, indexing="ij")
    sample = partial(ndimage.map_coordinates, coordinates=grid, order=1, mode="nearest")
    return np.stack([sample(image[..., c]) for c in range(depth)], -1)


def shared(key, image, options):
    return jax.jit(crops.shared_crop)(key, image, **options)


def by_row(keys, image, options):
    return jax.jit(crops.row_crops)(keys, image, **options)


@pytest.mark.parametrize("box", [(0, 0, 8, 5), (1.3, 0.4, 3.7, 4.1), (7, 4, 1, 1)])
def test_a_crop_is_bilinear_interpolation(box):
    image = random_images(1, shape=(SIDE, 5, 2))[0]
    box = crops.Box(*np.asarray(box, np.float32))
    np.testing.assert_allclose(
        crops.crop_resize(jnp.asarray(image), box), bilinear(image, box), atol=1e-6
    )


def test_scale_one_and_ratio_one_is_the_identity():
    options = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    np.testing.assert_array_equal(shared(KEY, IMAGE, options), IMAGE)
    np.testing.assert_array_equal(by_row(MANY[:COUNT], IMAGE, options), IMAGE)


def test_a_shared_box_is_the_same_for_every_row():
    same = jnp.broadcast_to(IMAGE[:1], IMAGE.shape)
    out = np.asarray(shared(KEY, same, WIDE))
    np.testing.assert_array_equal(out, np.broadcast_to(out[:1], out.shape))
    assert not np.allclose(out, same)
    box = jax.jit(lambda key: crops.random_box(key, SIDE, SIDE, **WIDE))(KEY)
    expected = [bilinear(np.asarray(one), jax.tree.map(float, box)) for one in IMAGE]
    np.testing.assert_allclose(
        shared(KEY, IMAGE, WIDE), np.stack(expected), atol=1e-5, rtol=0
    )


def test_boxes_by_row_differ_and_see_no_neighbour():
    same = jnp.broadcast_to(IMAGE[:1], IMAGE.shape)
    out = np.asarray(by_row(MANY[:COUNT], same, WIDE))
    assert len(np.unique(out.reshape(COUNT, -1), axis=0)) == COUNT
    part = by_row(MANY[2:4], same[2:4], WIDE)
    np.testing.assert_allclose(part, out[2:4], atol=1e-6)


@pytest.mark.parametrize("height,width", [(20, 20), (12, 30)])
def test_boxes_lie_in_the_image_with_area_and_ratio_in_range(height, width):
    scale = (0.1, 0.9)
    box = boxes(height, width, scale, RATIO)
    assert (box.top >= 0).all() and (box.top + box.height <= height + 1e-4).all()
    assert (box.left >= 0).all() and (box.left + box.width <= width + 1e-4).all()
    share = box.height * box.width / (height * width)
    assert share.min() >= scale[0] - 1e-5 and share.max() <= scale[1] + 1e-5
    ratio = box.width / box.height
    assert ratio.min() >= RATIO[0] - 1e-5 and ratio.max() <= RATIO[1] + 1e-5


def test_where_every_box_fits_draws_have_their_distributions():
    low, high = 0.05, 0.4
    box = boxes(20, 20, (low, high), RATIO)
    shares = box.height * box.width / 400
    ratios = np.log(box.width / box.height)
    tops, lefts = box.top / (20 - box.height), box.left / (20 - box.width)
    uniform = lambda draws, a, b: stats.kstest(draws, "uniform", (a, b - a)).pvalue
    assert uniform(shares, low, high) > 1e-3
    assert uniform(ratios, *np.log(RATIO)) > 1e-3
    assert uniform(tops, 0, 1) > 1e-3 and uniform(lefts, 0, 1) > 1e-3
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.1


@pytest.mark.parametrize(
    "height,width,expected",
    [(8, 8, (0, 0, 8, 8)), (6, 20, (0, 6, 6, 8)), (20, 6, (6, 0, 8, 6))],
)
def test_where_no_box_fits_the_largest_central_one_is_taken(height, width, expected):
    box = boxes(height, width, (1.0, 1.0), RATIO)
    # Ratio one fits a square by chance; its area would be the whole as well.
    for found, corner in zip(box, expected, strict=True):
        np.testing.assert_allclose(found, corner, atol=1e-4)


def test_a_crop_is_linear_and_gradients_flow_through_it():
    toward = jnp.asarray(random_images(COUNT, 1, (SIDE, SIDE, 2)))
    out, back = jax.vjp(lambda image: shared(KEY, image, WIDE), IMAGE)
    (pulled,) = back(toward)
    np.testing.assert_allclose(jnp.vdot(out, toward), jnp.vdot(IMAGE, pulled), 1e-5)


def test_a_shared_flip_mirrors_all_or_none():
    flipped = [
        np.asarray(jax.jit(crops.shared_flip)(jax.random.key(i), IMAGE))
        for i in range(20)
    ]
    mirrored = [np.array_equal(x, IMAGE[:, :, ::-1]) for x in flipped]
    same = [np.array_equal(x, IMAGE) for x in flipped]
    assert all(a != b for a, b in zip(mirrored, same)) and 4 < sum(same) < 16


def test_a_roll_reaches_every_shift_of_its_range_and_no_other():
    low, high, roll = -1, 2, jax.jit(crops.shared_roll, static_argnums=(2, 3))
    near = {
        (y, x): np.roll(IMAGE, (y, x), (1, 2))
        for y in range(-3, 5)
        for x in range(-3, 5)
    }
    found = set()
    for i in range(150):
        out = np.asarray(roll(jax.random.key(i), IMAGE, low, high))
        (shift,) = [s for s, image in near.items() if np.array_equal(image, out)]
        found.add(shift)
    assert found == {(y, x) for y in range(low, high + 1) for x in range(low, high + 1)}


def test_the_curriculum_is_half_a_cosine_down_to_the_milestone():
    at = lambda step, milestone=0.5: float(
        crops.curriculum(step, 100, least_scale=0.08, milestone=milestone)
    )
    assert at(0) == pytest.approx(1) and at(25) == pytest.approx(0.54)
    assert at(50) == pytest.approx(0.08) and at(100) == pytest.approx(0.08)
    assert all(np.diff([at(step) for step in range(51)]) < 0)
    # SRe2L has no curriculum: the least scale from the first step on.
    assert at(0, 0.0) == at(99, 0.0) == pytest.approx(0.08)


def multi_crop(**options):
    everything = {"least_scale": 0.3, "flip": True, "jitter": (-1, 2)}
    everything |= {"total_steps": 10, "milestone": 1.0, "ratio": (1.0, 1.0)}
    return jax.jit(crops.make_multi_crop(**everything | options))


def test_with_all_parts_off_the_view_is_the_image():
    view = multi_crop(least_scale=1.0, flip=False, jitter=(0, 0))
    np.testing.assert_array_equal(view(KEY, 5, IMAGE), IMAGE)


def test_the_curriculum_shows_whole_images_first_and_parts_at_the_end():
    view = multi_crop(flip=False, jitter=(0, 0))
    np.testing.assert_allclose(view(KEY, 0, IMAGE), IMAGE, atol=1e-5)
    assert np.abs(view(KEY, 10, IMAGE) - IMAGE).max() > 0.1


def test_a_view_is_a_function_of_its_key():
    view = multi_crop()
    first, again, other = (view(k, 9, IMAGE) for k in (KEY, KEY, jax.random.key(5)))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
