"""Which generated images stay: a truth table, ranks, and what labelers must be."""

import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.selection.filters import (
    FILTERS,
    Opinion,
    confidence,
    everything,
    opinion,
    two_labelers,
)


def says(*pairs):
    """An opinion of three classes: (class, probability) of every image."""
    rows = []
    for label, probability in pairs:
        row = np.full(3, (1 - probability) / 2)
        row[label] = probability
        rows.append(row)
    return Opinion(np.array(rows))


def test_only_the_doubtful_on_which_labelers_differ_are_thrown_away():
    """Sehwag et al.: away iff the labels differ and both confidences are below 0.9."""
    sure, unsure = 0.95, 0.6
    cases = [  # (first, second, kept)
        ((0, sure), (0, sure), True),
        ((0, unsure), (0, unsure), True),
        ((0, sure), (1, sure), True),
        ((0, sure), (1, unsure), True),
        ((0, unsure), (1, sure), True),
        ((0, unsure), (1, unsure), False),
    ]
    opinions = (says(*(c[0] for c in cases)), says(*(c[1] for c in cases)))
    kept = two_labelers(0.9)(opinions[0].label, opinions)
    assert kept.tolist() == [c[2] for c in cases]


def test_a_confidence_at_the_threshold_is_enough():
    label = np.zeros(1, np.int32)
    pair = says((0, 0.9)), says((1, 0.5))
    assert two_labelers(0.9)(label, pair).all()
    assert not two_labelers(np.nextafter(0.9, 1))(label, pair).any()


def test_each_class_keeps_its_share_of_the_likeliest():
    generator = np.random.default_rng(0)
    label = generator.integers(0, 3, 90).astype(np.int32)
    seen = opinion(generator.normal(size=(90, 3)))
    kept = confidence(0.4)(label, (seen,))
    likely = seen.of(label)
    for k in range(3):
        mine = label == k
        assert kept[mine].sum() == round(0.4 * mine.sum())
        assert likely[mine & kept].min() >= likely[mine & ~kept].max()


def test_filters_move_with_their_images():
    generator = np.random.default_rng(1)
    label = generator.integers(0, 3, 60).astype(np.int32)
    seen = [generator.normal(size=(60, 3)) for _ in range(2)]
    order = generator.permutation(60)
    for keep in (two_labelers(0.8), confidence(0.5), everything()):
        whole = keep(label, tuple(map(opinion, seen)))
        mixed = keep(label[order], tuple(opinion(s[order]) for s in seen))
        np.testing.assert_array_equal(mixed, whole[order])


def test_opinions_are_softmax_and_never_overflow():
    seen = opinion(np.array([[1e4, 0.0, -1e4], [0.0, np.log(3.0), 0.0]]))
    np.testing.assert_allclose(seen.probability[0], [1, 0, 0])
    np.testing.assert_allclose(seen.probability[1], [0.2, 0.6, 0.2])
    assert seen.label.tolist() == [0, 1]
    np.testing.assert_allclose(seen.of(np.array([2, 1])), [0.0, 0.6])


@pytest.mark.parametrize("labelers", [0, 1, 3])
def test_two_labelers_are_two(labelers):
    label = np.zeros(2, np.int32)
    with pytest.raises(UserError, match=f"needs two labelers, not {labelers}"):
        two_labelers(0.9)(label, (says((0, 0.5), (0, 0.5)),) * labelers)


@pytest.mark.parametrize(
    ("name", "options"),
    [("two_labelers", {"threshold": 1.5}), ("confidence", {"keep_ratio": 0.0})],
)
def test_shares_out_of_range_are_refused(name, options):
    with pytest.raises(UserError, match="is not in"):
        FILTERS[name](**options)
