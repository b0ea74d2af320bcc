"""The lines of docs/proxy.md do what they say."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import ROOT, linear_logits, random_weight

from .clouds import linear_distances, pixels

PAGE = (ROOT / "docs" / "proxy.md").read_text()
WEIGHT = random_weight(shape=(8, 8, 1))


def nearest(images, index):
    flat = images.image[index].reshape(len(index), -1) / 255.0
    return linear_distances(flat, images.label[index], WEIGHT)["linf"]


def test_the_lines_measure_two_sets():
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    names = {
        "original": pixels([0, 1, 2] * 4),
        "generated": pixels([0, 1, 2] * 5, seed=1, bright=10),
        "nearest": nearest,
        "logits_fn": linear_logits(WEIGHT),
        "feature_fn": lambda image: jnp.reshape(image, (len(image), -1)),
    }
    exec(code, names)
    found = names["found"]
    assert isinstance(found, dict)
    assert found["transfer"][0]["bound"] == found["spaces"][0]["cwd"] > 0
    assert found["networks"][0]["rob_original"] == pytest.approx(
        np.mean(nearest(names["original"], np.arange(12))), rel=1e-5
    )
