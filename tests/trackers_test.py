"""Trackers against replays of the same histories in NumPy, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.trackers import TRACKERS

SIZE, EPOCHS, CLASSES, BATCH = 12, 9, 3, 4
DRAW = np.random.default_rng(0)
LABEL = DRAW.integers(0, CLASSES, SIZE).astype(np.int32)
HISTORY = DRAW.normal(size=(EPOCHS, SIZE, CLASSES)).astype(np.float32)
# Some images learned for good, some never, so that every branch is met.
HISTORY[2:, 0, LABEL[0]] = 9.0
HISTORY[:, 1, LABEL[1]] = -9.0
EVERY = pytest.mark.parametrize("name", sorted(TRACKERS))


def play(name, orders, history=HISTORY, size=SIZE, batch=BATCH):
    """Scores after epochs whose images come in `orders`, `batch` at a time."""
    tracker = TRACKERS[name]()
    state, update = tracker.init(size), jax.jit(tracker.update)
    for logits, order in zip(history, orders):
        for rows in np.split(order, range(batch, len(order), batch)):
            state = update(
                state,
                jnp.asarray(rows, jnp.int32),
                jnp.asarray(logits[rows]),
                jnp.asarray(LABEL[rows]),
            )
    return np.asarray(jax.jit(tracker.score)(state))


def in_order(count=SIZE):
    return [np.arange(count)] * EPOCHS


def replay_forgetting(logits, label):
    """Scores [N] of one history [T,N,K], image by image."""
    right = logits.argmax(2) == label
    count = [sum(a and not b for a, b in zip(r, r[1:])) for r in right.T]
    return [c if r.any() else max(count) + 1 for c, r in zip(count, right.T)]


def replay_aum(logits, label):
    margins = []
    for rows in logits.astype(np.float64):
        own = rows[np.arange(len(label)), label]
        rest = np.where(np.eye(CLASSES)[label] == 1, -np.inf, rows)
        margins.append(own - rest.max(1))
    return np.mean(margins, axis=0)


def replay_stability(logits, label):
    return np.mean(logits.argmax(2) == label, axis=0)


REPLAYS = {
    "aum": replay_aum,
    "forgetting": replay_forgetting,
    "stability": replay_stability,
}


@EVERY
def test_it_equals_a_replay_of_the_history(name):
    found = play(name, in_order())
    assert found.shape == (SIZE,) and found.dtype == np.float32
    expected = REPLAYS[name](HISTORY, LABEL)
    assert len(np.unique(np.round(expected, 4))) > 3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@EVERY
def test_order_and_size_of_batches_within_an_epoch_do_not_matter(name):
    orders = [DRAW.permutation(SIZE) for _ in range(EPOCHS)]
    first = play(name, in_order())
    np.testing.assert_array_equal(play(name, orders), first)
    np.testing.assert_array_equal(play(name, orders, batch=5), first)


def test_forgetting_by_hand():
    # Right (1) and wrong (0) at five looks: forgotten twice, once, never, never right.
    looks = np.array([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0] * 5])
    label = LABEL[:4]
    logits = np.where(np.eye(CLASSES)[label] == 1, 1.0, 0.5)
    other = 1.0 - logits
    history = np.where(looks.T[..., None] == 1, logits, other).astype(np.float32)
    found = play("forgetting", in_order(4), history, size=4)
    np.testing.assert_array_equal(found, [2, 1, 0, 3])


def test_aum_and_stability_by_hand():
    # One image, margins 2, -1 and 5: mean 2, right at two looks of three.
    logits = np.zeros((3, 1, CLASSES), np.float32)
    logits[:, 0, LABEL[0]] = [2.0, -1.0, 5.0]
    assert play("aum", in_order(1), logits, size=1) == pytest.approx([2.0])
    assert play("stability", in_order(1), logits, size=1) == pytest.approx([2 / 3])


def test_unseen_images_are_never_learned_undecided_and_never_right():
    seen = [np.arange(1, SIZE - 2)] * EPOCHS
    for name, unseen in (("aum", 0.0), ("stability", 0.0)):
        found = play(name, seen)
        np.testing.assert_array_equal(found[[0, SIZE - 2, SIZE - 1]], unseen)
        np.testing.assert_array_equal(found[1:-2], play(name, in_order())[1:-2])
    found = play("forgetting", seen)
    most = found[[i for i in seen[0] if i != 1]].max()
    np.testing.assert_array_equal(found[[0, 1, SIZE - 2, SIZE - 1]], most + 1)


@EVERY
def test_before_the_first_look_scores_are_finite_and_equal(name):
    tracker = TRACKERS[name]()
    found = np.asarray(tracker.score(tracker.init(SIZE)))
    assert np.isfinite(found).all() and len(set(found)) == 1


@EVERY
def test_padding_past_the_pool_is_ignored(name):
    tracker = TRACKERS[name]()
    logits, label = jnp.asarray(HISTORY[0, :4]), jnp.asarray(LABEL[:4])
    padded = jnp.array([0, 3, SIZE, SIZE + 1])
    found = tracker.update(tracker.init(SIZE), padded, logits, label)
    expected = tracker.update(tracker.init(SIZE), padded[:2], logits[:2], label[:2])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@EVERY
def test_large_means_what_it_says(name):
    # Image 0 is right from the third look on, image 1 never.
    found = play(name, in_order())
    hard, easy = (1, 0) if TRACKERS[name]().larger == "hard" else (0, 1)
    assert found[hard] > found[easy]


def test_a_broken_network_is_never_right():
    broken = np.full_like(HISTORY, np.nan)
    np.testing.assert_array_equal(play("stability", in_order(), broken), 0.0)
    np.testing.assert_array_equal(play("forgetting", in_order(), broken), 1.0)
