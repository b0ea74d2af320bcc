"""Small random sets and the check that a mistake is answered in one line."""

import contextlib

import numpy as np
import pytest

from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError


def random_arrays(count=60, side=8, channels=3, classes=3, seed=0):
    """uint8[count,side,side,channels] and balanced int64[count] labels, shuffled."""
    generator = np.random.default_rng(seed)
    shape = (count, side, side, channels)
    image = generator.integers(0, 256, shape).astype(np.uint8)
    return image, generator.permutation(np.arange(count) % classes)


def random_set(**kwargs):
    image, label = random_arrays(**kwargs)
    names = tuple(f"class{k}" for k in range(int(label.max()) + 1))
    return ImageSet(image, label.astype(np.int32), names, "random")


def save_npz(folder, train, test, save=np.savez):
    folder.mkdir(exist_ok=True)
    for split, (image, label) in (("train", train), ("test", test)):
        save(folder / f"{split}.npz", image=image, label=label)
    return str(folder)


@contextlib.contextmanager
def assert_refused(*words):
    """The block raises a `UserError` of one line that holds all `words`."""
    with pytest.raises(UserError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, f"{word!r} not in {text!r}"
