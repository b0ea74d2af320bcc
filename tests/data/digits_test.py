import numpy as np
from sklearn.datasets import load_digits

from jaxrobust.data.digits import digits


def test_shapes_types_and_names():
    for split, count in (("train", 1297), ("test", 500)):
        found = digits(split)
        assert found.image.shape == (count, 8, 8, 1)
        assert found.image.dtype == np.uint8 and found.label.dtype == np.int32
        assert found.class_names == tuple("0123456789")
        assert "\n" not in found.provenance and "digits" in found.provenance


def test_pixels_are_the_rounded_intensities_of_the_source_rows():
    bunch = load_digits()
    for split in ("train", "test"):
        found = digits(split)
        source = bunch.images[found.source_rows]
        expected = np.array([round(v * 255 / 16) for v in range(17)])
        np.testing.assert_array_equal(found.image[..., 0], expected[source.astype(int)])
        np.testing.assert_array_equal(found.label, bunch.target[found.source_rows])
    assert found.image.max() == 255 and found.image.min() == 0


def test_splits_are_disjoint_whole_stratified_and_shuffled():
    train, test = digits("train"), digits("test")
    rows = np.sort(np.r_[train.source_rows, test.source_rows])
    np.testing.assert_array_equal(rows, np.arange(1797))
    share = np.bincount(test.label) / np.bincount(np.r_[train.label, test.label])
    assert np.abs(share - 500 / 1797).max() < 0.006
    for part in (train, test):
        assert set(part.label[:100]) == set(range(10))
        assert not np.all(np.diff(part.source_rows) > 0)


def test_same_every_time():
    assert digits("train").fingerprint() == digits("train").fingerprint()
    # Changing the split silently would make all published digits numbers incomparable.
    assert digits("test").fingerprint().startswith("6b9e841df19c32d8")
