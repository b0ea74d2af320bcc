"""Small helpers over trees of arrays."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrobust.types import PyTree


def count(tree: PyTree) -> int:
    """The number of scalars in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def norm(tree: PyTree) -> Array:
    """The 2-norm of all scalars of a tree as one vector, f32[]."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def all_finite(tree: PyTree) -> Array:
    """bool[]: no leaf holds a NaN or an infinity."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.asarray(True)


def split_rows(tree: PyTree, count: int) -> PyTree:
    """[B,...] -> [count,B/count,...] for every leaf: part i has rows i, i + count, ...

    A leaf laid over devices is not moved between them where each has a multiple of
    `count` rows.
    """
    cut = lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(cut, tree)


def join_rows(tree: PyTree) -> PyTree:
    """The inverse of `split_rows`."""
    join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
    return jax.tree.map(join, tree)


def digest(tree: PyTree) -> str:
    """sha256 over name, type, shape and bytes of every leaf, in tree order: equal iff
    bit-identical."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(jax.device_get(leaf))
        head = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}\n"
        sha.update(head.encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def plain(value: Any) -> Any:
    """Config trees as dicts and tuples."""
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value
