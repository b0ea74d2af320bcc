"""The checks of a pool see copies, leaks and wrong labels, and see nothing else."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxrobust.generative.quality import knn_predict, nearest, pool_quality
from tests import helpers


def labelled(count, seed):
    """Noisy images of three classes that a nearest neighbour tells apart."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 3
    centre = np.random.default_rng(0).uniform(0.2, 0.8, (3, *helpers.SHAPE))
    image = centre[label] + rng.uniform(-0.15, 0.15, (count, *helpers.SHAPE))
    return image.astype(np.float32), label


TRAIN, TEST = labelled(300, 1), labelled(200, 2)


@pytest.mark.parametrize("queries", [1, 256, 300])
def test_nearest_agrees_with_brute_force(queries):
    query, known = helpers.random_images(queries), helpers.random_images(70, seed=1)
    distance, position = nearest(query, known, 4)
    table = cdist(query.reshape(queries, -1), known.reshape(70, -1))
    np.testing.assert_array_equal(position, np.argsort(table, axis=1)[:, :4])
    np.testing.assert_allclose(distance, np.sort(table, axis=1)[:, :4], rtol=1e-5)


def test_more_neighbours_than_images_are_all_images():
    distance, _ = nearest(TEST[0][:3], TRAIN[0][:2], 5)
    assert distance.shape == (3, 2)


def test_votes_and_ties():
    known = np.array([0.0, 0.1, 0.3, 0.6], np.float32).reshape(4, 1, 1, 1)
    query = np.zeros((1, 1, 1, 1), np.float32)
    label = np.array([2, 1, 1, 2])
    assert knn_predict(query, known, label, 1) == [2]
    assert knn_predict(query, known, label, 3) == [1]
    assert knn_predict(query, known, label, 4) == [2]


def test_a_pool_as_new_as_the_test_set():
    quality = pool_quality(labelled(250, 3), TRAIN, TEST, 5)
    assert quality["label_agreement"] == quality["knn_generated_acc"] == 1
    assert 0.97 < quality["memorisation_ratio"] < 1.03
    assert quality["copy_share"] < 0.04
    assert quality["nn_generated_test_min"] > 0.05
    assert all(type(value) is float for value in quality.values())


def test_copies_of_training_images_are_seen():
    quality = pool_quality((TRAIN[0] + 1e-4, TRAIN[1]), TRAIN, TEST, 5)
    assert quality["memorisation_ratio"] < 0.01
    assert quality["copy_share"] == 1


def test_one_leaked_test_image_is_seen():
    image, label = labelled(250, 3)
    image[7] = TEST[0][3]
    assert pool_quality((image, label), TRAIN, TEST, 5)["nn_generated_test_min"] == 0


def test_wrong_labels_are_seen():
    image, label = labelled(250, 3)
    label = np.where(np.arange(250) < 50, (label + 1) % 3, label)
    quality = pool_quality((image, label), TRAIN, TEST, 5)
    assert quality["label_agreement"] == 0.8


def test_a_pool_without_labels_is_asked_nothing_about_them():
    image, label = labelled(250, 3)
    without = pool_quality((image, None), TRAIN, TEST, 5)
    whole = pool_quality((image, label), TRAIN, TEST, 5)
    assert without.keys() == whole.keys() - {"label_agreement", "knn_generated_acc"}
    assert all(whole[name] == value for name, value in without.items())
