"""Which images a run sees: functions of the step, whatever was interrupted."""

import numpy as np
import pytest

from jaxrobust import loader
from jaxrobust.errors import UserError
from jaxrobust.samplers import (
    FixedSampler,
    MixedSampler,
    PeriodicSampler,
    RedrawnSampler,
    WatchedSampler,
)
from jaxrobust.tasks.fit import Stage, _chunk
from jaxrobust.types import Subset

STATE = None
SUBSETS = {
    step: Subset.uniform(np.arange(12) + 100 * i)
    for i, step in enumerate(range(0, 30, 5))
}


def periodic(asked=None):
    def choose(step, state):
        if asked is not None:
            asked.append(step)
        return SUBSETS[step]

    return PeriodicSampler(SUBSETS[0], choose, 5, 5, seed=1, batch_size=4)


def mixed(generated=1, real_weight=None, batch_size=4):
    real = Subset.uniform(np.arange(10))
    pool = np.arange(100, 130)
    return MixedSampler(real, pool, generated, real_weight, 1, batch_size)


def samplers():
    return {
        "fixed": FixedSampler(SUBSETS[0], 1, 4),
        "redrawn": RedrawnSampler(size=40, budget=13, seed=1, batch_size=4),
        "mixed": mixed(),
        "periodic": periodic(),
        "watched": WatchedSampler(periodic(), lambda step, state: None, 7),
    }


def collect(sampler, first, last, chunk=100):
    """All positions of the steps from first to last, cut as the loop cuts them."""
    stage = Stage("", last, 4, chunk, 0, True, 0, "last", 1.0)
    found, step = [], first
    while step < last:
        count = _chunk(stage, sampler, step)
        assert count > 0
        found.append(sampler.batches(STATE, step, count)[0])
        step += count
    return np.concatenate(found)


@pytest.mark.parametrize("name", samplers())
def test_chunks_and_interruptions_do_not_matter(name):
    whole = collect(samplers()[name], 0, 24)
    assert whole.shape == (24, 4) and whole.dtype == np.int32
    for first, chunk in ((0, 1), (0, 3), (5, 100), (13, 2)):
        part = collect(samplers()[name], first, 24, chunk)
        np.testing.assert_array_equal(part, whole[first:])


def test_fixed_is_the_loader():
    found = FixedSampler(SUBSETS[0], 3, 4).batches(STATE, 2, 5)
    expected = loader.batches(SUBSETS[0], 3, 4, 2, 5)
    np.testing.assert_array_equal(found[0], expected[0])


def test_redrawn_takes_other_images_in_every_epoch_without_repeats_inside():
    sampler = RedrawnSampler(size=40, budget=13, seed=1, batch_size=4)
    epochs = collect(sampler, 0, 30).reshape(10, 12)
    for number, seen in enumerate(epochs):
        assert len(set(seen)) == 12
        assert set(seen) <= set(sampler.subset(number).index)
    assert len(set(epochs.ravel())) == 40
    other = RedrawnSampler(size=40, budget=13, seed=2, batch_size=4)
    assert set(other.subset(0).index) != set(sampler.subset(0).index)


def test_redrawn_needs_one_batch():
    with pytest.raises(UserError, match="larger than the 3 images"):
        RedrawnSampler(size=40, budget=3, seed=1, batch_size=4)


def test_periodic_trains_on_what_was_chosen_last():
    seen = collect(periodic(), 0, 30)
    for step, subset in SUBSETS.items():
        assert set(seen[step : step + 5].ravel()) <= set(subset.index)


def test_periodic_asks_with_the_state_of_a_multiple_of_its_period():
    asked = []
    collect(periodic(asked), 0, 30, chunk=2)
    assert set(asked) == {5, 10, 15, 20, 25}
    sampler = periodic()
    assert [step for step in range(30) if sampler.chooses(step)] == asked[::3]


def test_the_first_steps_may_take_longer_than_a_period():
    whole = Subset.uniform(np.arange(50))
    sampler = PeriodicSampler(whole, lambda step, _: SUBSETS[step - 7], 7, 5, 1, 4)
    assert [s for s in range(30) if sampler.chooses(s)] == [7, 12, 17, 22, 27]
    seen = collect(sampler, 0, 17)
    assert len(set(seen[:7].ravel())) == 28
    assert set(seen[7:12].ravel()) <= set(SUBSETS[0].index)
    assert set(seen[12:].ravel()) <= set(SUBSETS[5].index)


def test_every_period_has_orders_of_its_own():
    same = PeriodicSampler(SUBSETS[0], lambda *_: SUBSETS[0], 5, 5, 1, 4)
    seen = collect(same, 0, 30).reshape(6, 20)
    assert len({tuple(row) for row in seen}) == 6


def test_watched_looks_at_its_steps_and_changes_nothing():
    looks = []
    look = lambda step, state: looks.append(step)
    watched = WatchedSampler(periodic(), look, 7)
    np.testing.assert_array_equal(collect(watched, 0, 30), collect(periodic(), 0, 30))
    assert looks == [7, 14, 21, 28]


def test_a_mixed_batch_has_its_share_of_each():
    index, weight = mixed(generated=3, batch_size=5).batches(STATE, 0, 200)
    assert ((index[:, :2] < 10).all()) and (index[:, 2:] >= 100).all()
    np.testing.assert_array_equal(weight, np.ones((200, 5)))
    epoch = index[:5, :2].ravel()
    assert len(set(epoch.tolist())) == 10, "real ones come without replacement"
    drawn = np.bincount(index[:, 2:].ravel() - 100, minlength=30)
    assert drawn.min() > 0 and drawn.max() > 5, (
        "others from everywhere, again and again"
    )


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0])
def test_gamma_weighs_the_means_of_both_kinds(gamma):
    index, weight = mixed(3, gamma, batch_size=5).batches(STATE, 0, 4)
    loss = np.random.default_rng(0).normal(size=index.shape)
    expected = gamma * loss[:, :2].mean(1) + (1 - gamma) * loss[:, 2:].mean(1)
    np.testing.assert_allclose((weight * loss).mean(1), expected, rtol=1e-6)
    np.testing.assert_allclose(weight.mean(1), 1.0, rtol=1e-6)


def test_passes_count_what_was_seen():
    sampler = mixed(3, batch_size=5)
    index, _ = sampler.batches(STATE, 0, 40)
    passes = sampler.passes(40)
    assert passes["real_passes"] == (index < 100).sum() / 10
    assert passes["generated_passes"] == (index >= 100).sum() / 30


@pytest.mark.parametrize("generated", [0, 4])
def test_a_mixture_has_both(generated):
    with pytest.raises(UserError, match="not a mixture"):
        mixed(generated)
