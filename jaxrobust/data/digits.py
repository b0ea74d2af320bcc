"""The 8x8 digits that ship inside scikit-learn: a data set that is always there."""

import numpy as np

from jaxrobust import rng
from jaxrobust.data import choice
from jaxrobust.data.image_set import ImageSet, validate

TEST_COUNT = 500


def digits(split: str) -> ImageSet:
    """1,297 train or 500 test images uint8[N,8,8,1] of handwritten digits.

    Intensities 0..16 become round(255 v / 16). The 500 test images are a stratified
    choice with seed 0 and both splits are in random order, always the same. Writers are
    not kept apart, so test accuracy is a little optimistic.

    Ref: scikit-learn `load_digits` (the test part of UCI optical digits).
    """
    # Importing scikit-learn takes a second that other sources need not pay.
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    intensity = np.asarray(data).reshape(-1, 8, 8, 1)
    whole = ImageSet(
        np.rint(intensity * 255 / 16).astype(np.uint8),
        np.asarray(target),
        tuple(str(k) for k in range(10)),
        f"scikit-learn digits, 8x8 grey, {split} of a fixed 1297/{TEST_COUNT} split",
    )
    whole = validate(whole)
    test = choice.stratified(whole.label, TEST_COUNT, 0, "unsplit")
    if split == "test":
        return whole.take(test)
    train = choice.complement(len(whole), test)
    return whole.take(train[rng.permutation(0, 0, len(train))])
