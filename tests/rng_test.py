"""Every draw is a function of (seed, purpose, step, image), and of nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import rng


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_purposes_steps_and_names_never_share_a_key():
    seen = set()
    for purpose in rng.PURPOSES:
        base = rng.purpose_key(3, purpose)
        seen.add(bits(base))
        for step in range(3):
            keys = rng.step_keys(base, step)
            seen |= {bits(key) for key in keys}
    assert len(seen) == len(rng.PURPOSES) * (1 + 3 * len(rng.StepKeys._fields))


def test_keys_are_a_function_of_seed_and_step():
    base = rng.purpose_key(3, "train")
    again = rng.step_keys(rng.purpose_key(3, "train"), jnp.int32(5))
    assert [bits(k) for k in rng.step_keys(base, 5)] == [bits(k) for k in again]
    assert bits(base) != bits(rng.purpose_key(4, "train"))


def test_unknown_purpose_is_an_error():
    with pytest.raises(ValueError):
        rng.purpose_key(0, "luck")


def test_a_rows_key_does_not_see_its_neighbours():
    key = jax.random.key(1)
    index = jnp.array([4, 9, 0, 2])
    whole = rng.per_example(key, index)
    for place, one in enumerate(index):
        assert bits(whole[place]) == bits(rng.per_example(key, one[None])[0])
    assert len({bits(k) for k in whole}) == 4


def test_split_rows_gives_different_keys_in_every_place():
    keys = rng.per_example(jax.random.key(1), jnp.arange(3))
    parts = rng.split_rows(keys, 2)
    assert len(parts) == 2 and all(part.shape == (3,) for part in parts)
    assert len({bits(k) for part in (keys, *parts) for k in part}) == 9


@pytest.mark.parametrize("size", (1, 2, 17))
def test_permutation_holds_everyone_once_and_changes_with_the_epoch(size):
    first = rng.permutation(5, 0, size)
    np.testing.assert_array_equal(np.sort(first), np.arange(size))
    np.testing.assert_array_equal(first, rng.permutation(5, 0, size))
    if size == 17:
        assert not np.array_equal(first, rng.permutation(5, 1, size))
        assert not np.array_equal(first, rng.permutation(6, 0, size))


def test_host_choice_is_sorted_without_repeats_and_by_stream():
    chosen = rng.host_choice(1, 2, 100, 60)
    assert len(set(chosen.tolist())) == 60 and chosen.min() >= 0 and chosen.max() < 100
    np.testing.assert_array_equal(chosen, np.sort(chosen))
    np.testing.assert_array_equal(chosen, rng.host_choice(1, 2, 100, 60))
    for other in (rng.host_choice(1, 3, 100, 60), rng.host_choice(2, 2, 100, 60)):
        assert not np.array_equal(chosen, other)
    np.testing.assert_array_equal(rng.host_choice(0, 0, 5, 5), np.arange(5))


def test_host_choice_reaches_every_place():
    counts = np.zeros(10)
    for stream in range(200):
        counts[rng.host_choice(0, stream, 10, 5)] += 1
    assert counts.min() > 70 and counts.max() < 130
