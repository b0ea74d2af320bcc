"""Scores that stay on their devices: the picks are those of one device with them
all."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import sharding
from jaxrobust.selection import ORDERS, take_top
from jaxrobust.selection.spread_topk import _keep_top, keep_top
from tests.helpers import on_devices, on_processes

SIZE, ROWS, WIDTH, TOTAL = 41, 6, 8, 48
DRAW = np.random.default_rng(0)
ZEROS = np.where(DRAW.integers(0, 2, SIZE), np.float32(-0.0), np.float32(0.0))
SCORES = {
    "distinct": DRAW.normal(size=SIZE).astype(np.float32),
    "tied": DRAW.integers(-2, 2, SIZE).astype(np.float32),
    "zeros": ZEROS,
    "extreme": np.float32(DRAW.choice([3e38, -3e38, 1e-45, -1e-45, 1.0], SIZE)),
}
LABEL = DRAW.choice(4, SIZE, p=(0.6, 0.3, 0.1, 0.0)).astype(np.int32)
PLACE = DRAW.permutation(SIZE).astype(np.int32)
BUDGETS = (1, 6, 7, 20, SIZE)
KEY = jax.random.key(0)


def laid(values, mesh, fill=0):
    """[ROWS,WIDTH] over the devices, with rows at the end that do not count."""
    full = np.pad(values, (0, TOTAL - SIZE), constant_values=fill)
    return sharding.lay_columns(full.reshape(ROWS, WIDTH), mesh)


def arguments(name, mesh):
    """Scores, labels and places over the devices, and a key."""
    place = laid(PLACE, mesh, fill=TOTAL - 1)
    key = sharding.replicate_key(KEY, mesh)
    return laid(SCORES[name], mesh, 9e9), laid(LABEL, mesh), place, key


def picks():
    """[positions] of every case, by the devices of this group."""
    mesh, found = sharding.make_mesh(0), []
    for name, order, balanced in cases():
        given = arguments(name, mesh)
        for budget in BUDGETS:
            kept = keep_top(*given, SIZE, budget, order, balanced, 4, TOTAL, mesh)
            assert kept.shape == (ROWS, WIDTH)
            assert {part.data.shape[1] for part in kept.addressable_shards} == {2}
            kept = np.asarray(sharding.gather(kept, mesh)).ravel()
            found.append(np.flatnonzero(kept).tolist())
    return found


def cases():
    """Every kind of scores in every order, balanced and not."""
    return itertools.product(SCORES, ORDERS, (False, True))


def expected():
    """The same by sorting all scores in one place."""
    position = np.argsort(PLACE)
    fill = lambda x: jnp.pad(jnp.asarray(x), (0, TOTAL - SIZE))
    label = fill(LABEL[position])
    for name, order, balanced in cases():
        score = fill(SCORES[name][position])
        for budget in BUDGETS:
            found = take_top(score, label, KEY, SIZE, budget, order, balanced)
            yield (name, order, balanced, budget), sorted(position[found].tolist())


@pytest.fixture(scope="module")
def one_place():
    return list(expected())


def test_four_devices_choose_what_one_does(one_place):
    found = on_devices(4, picks)
    for (case, theirs), ours in zip(one_place, found, strict=True):
        assert ours == theirs, case


def test_two_processes_choose_what_one_does(one_place):
    first, second = on_processes(2, 2, picks)
    assert first == second == [theirs for _, theirs in one_place]


def largest():
    """{order: the most numbers that any value of the compiled choice has on a
    device}"""
    mesh, found = sharding.make_mesh(0), {}
    given = arguments("tied", mesh)
    for order in ORDERS:
        options = (order, True, 4, TOTAL, mesh)
        text = _keep_top.lower(*given, SIZE, 7, *options).compile().as_text()
        sizes = re.findall(r"\b(?:f32|u32|s32|pred)\[([\d,]+)\]", text)
        found[order] = max(np.prod([int(n) for n in s.split(",")]) for s in sizes)
    return {order: int(size) for order, size in found.items()}


def test_no_device_holds_more_than_its_share():
    found = on_devices(4, largest)
    # A random order is drawn for all of the pool, and has nothing of the scores.
    assert found.pop("random") == TOTAL
    assert set(found.values()) == {TOTAL // 4}
