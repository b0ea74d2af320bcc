"""Cheap, honest checks of a generated pool: is it right, is it useful, is it new?

Distances are Euclidean, in [0,1] pixels: meant for small images, where nearest
neighbours in pixel space still mean something.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Labelled = tuple[np.ndarray, np.ndarray]
"""(image f32[N,H,W,C] in [0,1], label int[N])."""

Generated = tuple[np.ndarray, np.ndarray | None]
"""The same, or without labels."""

BLOCK = 256
"""Queries a block: bounds memory at BLOCK x reference distances."""


def nearest(
    query: np.ndarray, reference: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of `reference` for every row of `query`, nearest first.

    Ranked by `||b||^2 - 2 a.b` in blocks; query [N,H,W,C], reference [M,H,W,C]
    -> (distance f32[N,k], position i32[N,k]), k cut to M.
    """
    query, reference = _flat(query), _flat(reference)
    padded = np.pad(query, ((0, -len(query) % BLOCK), (0, 0)))
    position = np.asarray(_nearest(padded, reference, min(k, len(reference))))
    position = position[: len(query)]
    # Again by subtraction: the product form loses three digits where images are equal.
    columns = [np.linalg.norm(query - reference[at], axis=1) for at in position.T]
    return np.stack(columns, axis=1), position


def knn_predict(
    query: np.ndarray, reference: np.ndarray, label: np.ndarray, k: int
) -> np.ndarray:
    """The commonest label among the k nearest, the nearest one's where votes tie."""
    _, position = nearest(query, reference, k)
    votes = np.asarray(label)[position]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    return votes[np.arange(len(votes)), counts.argmax(axis=1)]


def pool_quality(
    generated: Generated,
    train: Labelled,
    test: Labelled,
    k: int,
) -> dict[str, float]:
    """A flat dict about a generated pool; each argument is (image in [0,1], label).

    `label_agreement`: share of generated images whose label a k-NN on train confirms.
    `knn_generated_acc`, `knn_train_acc`: accuracy on test of a k-NN on generated, on
    train. `nn_generated_train`, `nn_test_train`: mean distance to the nearest training
    image; `memorisation_ratio` is their quotient, 1 where generated images are as new
    as test images and 0 where they are copies. `copy_share`: share of generated images
    nearer to a training image than 99% of test images are. `nn_generated_test_min`: the
    smallest distance to a test image, 0 if one leaked. A pool without labels has no
    `label_agreement` and no `knn_generated_acc`.
    """
    near_generated, _ = nearest(generated[0], train[0], 1)
    near_test, _ = nearest(test[0], train[0], 1)
    near_leak, _ = nearest(generated[0], test[0], 1)
    image, label = generated
    by_label = {}
    if label is not None:
        confirmed = knn_predict(image, *train, k) == label
        by_label["label_agreement"] = float(np.mean(confirmed))
        by_label["knn_generated_acc"] = _accuracy(test, (image, label), k)
    return {
        **by_label,
        "knn_train_acc": _accuracy(test, train, k),
        "nn_generated_train": float(near_generated.mean()),
        "nn_test_train": float(near_test.mean()),
        "memorisation_ratio": float(near_generated.mean() / near_test.mean()),
        "copy_share": float(np.mean(near_generated < np.quantile(near_test, 0.01))),
        "nn_generated_test_min": float(near_leak.min()),
    }


def _accuracy(test: Labelled, known: Labelled, k: int) -> float:
    return float(np.mean(knn_predict(test[0], *known, k) == test[1]))


def _flat(image: np.ndarray) -> np.ndarray:
    return np.asarray(image, np.float32).reshape(len(image), -1)


@partial(jax.jit, static_argnames="k")
def _nearest(rows: Array, known: Array, k: int) -> Array:
    norms = jnp.sum(known**2, axis=1)

    def block(query: Array) -> Array:
        # Tensor cores' short product would misrank neighbours.
        product = jnp.matmul(query, known.T, precision="highest")
        return lax.top_k(2.0 * product - norms[None, :], k)[1]

    position = lax.map(block, rows.reshape(-1, BLOCK, rows.shape[1]))
    return position.reshape(-1, k)
