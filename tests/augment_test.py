"""Augmentation moves pixels and label mass around and makes none up."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import augment
from jaxrobust.errors import UserError
from jaxrobust.types import Batch
from tests.helpers import image_keys, random_images

COUNT, CLASSES = 48, 4
SHAPE = (6, 5, 2)
IMAGE = random_images(COUNT, shape=SHAPE)
LABEL = np.random.default_rng(0).integers(0, CLASSES, COUNT).astype(np.int32)
BATCH = Batch(
    jnp.asarray(IMAGE), jnp.asarray(LABEL), jnp.ones(COUNT), jnp.arange(COUNT)
)
KEY = jax.random.key(3)
KEYS = image_keys(np.arange(COUNT))
OFF = {
    "crop_pad": 0,
    "flip": False,
    "cutmix_alpha": 0.0,
    "label_smoothing": 0.0,
    "smoothing_scope": "all",
    "num_classes": CLASSES,
    "num_original": 30,
}


@cache
def make(**options):
    return jax.jit(augment.make_augment(**OFF | options))


def test_everything_off_is_the_identity():
    out = make()(KEY, BATCH)
    np.testing.assert_array_equal(out.image, IMAGE)
    assert out.soft_label is None


def test_a_crop_is_a_window_of_the_padded_image():
    pad = 2
    crops = np.asarray(augment.random_crop(KEYS, BATCH.image, pad))
    padded = np.pad(IMAGE, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width, _ = SHAPE
    corners = set()
    for row in range(COUNT):
        found = [
            (y, x)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if np.array_equal(padded[row, y : y + height, x : x + width], crops[row])
        ]
        assert len(found) == 1
        corners.add(found[0])
    assert {y for y, _ in corners} == {x for _, x in corners} == set(range(5))


def test_a_flip_mirrors_columns_half_of_the_time():
    flipped = np.asarray(augment.random_flip(KEYS, BATCH.image))
    same = np.array([np.array_equal(a, b) for a, b in zip(flipped, IMAGE)])
    np.testing.assert_array_equal(flipped[~same], IMAGE[~same][:, :, ::-1])
    assert 0.25 < same.mean() < 0.75


def test_a_rows_augmentation_does_not_see_its_neighbours():
    moved = make(crop_pad=2, flip=True, label_smoothing=0.1)
    order = np.random.default_rng(1).permutation(COUNT)
    whole, shuffled = (
        moved(KEY, BATCH),
        moved(KEY, jax.tree.map(lambda x: x[order], BATCH)),
    )
    np.testing.assert_array_equal(whole.image[order], shuffled.image)
    np.testing.assert_array_equal(whole.soft_label[order], shuffled.soft_label)


def test_another_key_gives_another_augmentation():
    moved = make(crop_pad=2, flip=True, label_smoothing=0.1)
    assert not np.array_equal(
        moved(KEY, BATCH).image, moved(jax.random.key(4), BATCH).image
    )


@pytest.mark.parametrize("scope,smoothed", (("all", COUNT), ("generated", COUNT - 30)))
def test_label_smoothing_reaches_its_scope_only(scope, smoothed):
    out = make(label_smoothing=0.2, smoothing_scope=scope)(KEY, BATCH)
    one_hot = np.eye(CLASSES, dtype=np.float32)[LABEL]
    soft = 0.8 * one_hot + 0.2 / CLASSES
    reached = np.arange(COUNT) >= COUNT - smoothed
    expected = np.where(reached[:, None], soft, one_hot)
    np.testing.assert_allclose(out.soft_label, expected, atol=1e-6)
    np.testing.assert_array_equal(out.label, LABEL)


def test_an_unknown_scope_is_refused():
    with pytest.raises(UserError, match="did you mean generated"):
        make(smoothing_scope="genrated")


def test_cutmix_mixes_labels_by_the_area_it_pastes():
    # Each image has its own grey level, so that every pixel names its owner.
    level = jnp.arange(COUNT, dtype=jnp.float32) / COUNT
    image = jnp.broadcast_to(level[:, None, None, None], (COUNT, 8, 8, 1))
    one_hot = jax.nn.one_hot(jnp.arange(COUNT), COUNT)
    batch = BATCH._replace(image=image, soft_label=one_hot)
    out = jax.jit(augment.cutmix, static_argnums=2)(KEY, batch, 1.0)
    owner = np.rint(np.asarray(out.image[..., 0]) * COUNT).astype(int)
    soft = np.asarray(out.soft_label)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    partners, shares = [], []
    for row in range(COUNT):
        area = np.bincount(owner[row].ravel(), minlength=COUNT) / 64
        np.testing.assert_allclose(soft[row], area, atol=1e-6)
        foreign = np.flatnonzero(np.delete(area, row))
        assert len(foreign) <= 1
        partners += foreign.tolist()
        shares.append(1 - area[row])
        assert_is_box(owner[row] != row)
    assert 0.2 < np.mean(shares) < 0.6 and len(set(shares)) > 10
    assert len(partners) > COUNT // 2


def assert_is_box(mask):
    rows, columns = mask.any(1), mask.any(0)
    np.testing.assert_array_equal(mask, rows[:, None] & columns[None, :])
    for line in (rows, columns):
        assert np.count_nonzero(np.diff(line.astype(int))) <= 2


def test_cutmix_keeps_pixels_and_total_label_mass():
    out = make(cutmix_alpha=1.0, label_smoothing=0.1)(KEY, BATCH)
    pixels = np.sort(np.asarray(out.image).reshape(COUNT, -1), axis=0)
    assert np.isin(pixels, IMAGE).all()
    np.testing.assert_allclose(np.asarray(out.soft_label).sum(1), 1, rtol=1e-6)
    assert np.asarray(out.soft_label).min() >= 0.1 / CLASSES - 1e-6


def test_cutmix_never_shares_a_key_with_a_row(monkeypatch):
    # fold_in(key, i) is the key of image i, so CutMix must not use a small i.
    used = []
    monkeypatch.setattr(augment, "cutmix", lambda key, batch, _: used.append(key))
    augment.make_augment(**OFF | {"cutmix_alpha": 1.0})(KEY, BATCH)
    mine = np.asarray(jax.random.key_data(used[0]))
    rows = np.asarray(
        jax.random.key_data(
            jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(10_000))
        )
    )
    assert not (rows == mine).all(1).any()
