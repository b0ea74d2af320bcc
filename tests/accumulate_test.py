"""A step in slices is the step of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import sharding, tree
from jaxrobust.accumulate import check_slices
from jaxrobust.errors import UserError
from jaxrobust.objectives.mart import mart
from jaxrobust.objectives.trades import trades
from tests.bench import hlo_flops
from tests.helpers import (
    assert_trees_close,
    assert_trees_equal,
    count_dots,
    make_batch,
    on_devices,
)
from tests.train_step_test import (
    BATCH,
    KEY,
    NET,
    NORMED,
    RANDOM,
    fresh,
    make_step,
    one,
    pgd,
)

WEIGHT = jnp.array([1.0, 0.5, 0.0, 3.0, 1.0, 2.0])
CASES = {
    "pgd_at": {"attack": RANDOM},
    "trades": {"objective": trades(6.0, "both"), "attack": pgd(2, "gaussian")},
    "mart": {"objective": mart(5.0, "both")},
    "awp": {"awp_gamma": 0.1},
    "importance": {"weight_norm": "global", "ema_decay": 0.9},
}


@pytest.mark.parametrize("count", (1, 2, 3, 6))
def test_split_rows_and_join_rows_are_inverse(count):
    found = tree.split_rows(BATCH, count)
    assert found.image.shape[:2] == (count, 6 // count)
    np.testing.assert_array_equal(found.index[0], np.arange(0, 6, count))
    assert_trees_equal(tree.join_rows(found), BATCH)


@pytest.mark.parametrize("name", CASES)
def test_slices_make_the_step_of_the_whole_batch(name):
    batch, parts = BATCH._replace(weight=WEIGHT), CASES[name]
    whole, seen = one(batch, net=NET, **parts)
    sliced, seen_sliced = one(batch, net=NET, accumulate=3, **parts)
    assert_trees_close(sliced, whole, rtol=1e-5, atol=1e-6)
    assert_trees_close(seen_sliced, seen, rtol=1e-5, atol=1e-6)


def test_soft_labels_are_cut_along():
    soft = jax.nn.one_hot(BATCH.label, 3) * 0.7 + 0.1
    batch = BATCH._replace(soft_label=soft)
    whole, sliced = one(batch, net=NET), one(batch, net=NET, accumulate=2)
    assert_trees_close(sliced, whole)


def test_batch_norm_sees_a_slice_and_its_averages_move_once():
    parts = [jax.tree.map(lambda x, i=i: x[i::2], BATCH) for i in (0, 1)]
    sliced, seen = one(accumulate=2)
    alone = [one(part) for part in parts]
    halves = [state.batch_stats for state, _ in alone]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert_trees_close(sliced.batch_stats, mean)
    losses = [float(seen["loss"]) for _, seen in alone]
    assert float(seen["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    whole, _ = one()
    gap = jax.tree.map(lambda a, b: float(abs(a - b).max()), sliced, whole)
    assert max(jax.tree.leaves(gap.params)) > 1e-4, "the batch was seen as a whole"


def test_slices_compute_nothing_twice():
    step = make_step(net=NET, attack=pgd(3))
    sliced = make_step(net=NET, attack=pgd(3), accumulate=3)
    given = (fresh(NET), BATCH, KEY)
    assert count_dots(sliced, *given) == 3 * count_dots(step, *given)


def exchanges():
    """[whole, in slices]: the operations of a compiled step between four devices."""
    mesh, found = sharding.make_mesh(0), []
    state = sharding.replicate(jax.device_get(fresh(NORMED)), mesh)
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batch = jax.tree.map(lambda x: jax.device_put(x, layout), make_batch(24))
    for count in (1, 3):
        step = make_step(attack_bn="running", accumulate=count)
        text = jax.jit(step).lower(state, batch, KEY).compile().as_text()
        # By the lines: "fusion" and others may repeat the word in their operands.
        moves = ("all-to-all(", "collective-permute(", "all-gather(")
        moved = sum(any(word in line for word in moves) for line in text.splitlines())
        found.append([hlo_flops.parse(text).exchanges(), moved])
        losses = jax.jit(step)(state, batch, KEY)[1]["loss"]
        found[-1].append(float(losses))
    return found


def test_slices_stay_on_their_devices():
    (_, moved, loss), (_, moved_sliced, loss_sliced) = on_devices(4, exchanges)
    assert moved == moved_sliced == 0
    assert np.isfinite(loss) and np.isfinite(loss_sliced)


@pytest.mark.parametrize(
    "given,hint",
    (
        ((0, 12, 1), "set it to 1"),
        ((5, 12, 1), "try 10"),
        ((3, 12, 8), "try 24"),
        ((4, 24, 4), "try 16"),
    ),
)
def test_batches_that_do_not_divide_are_refused(given, hint):
    with pytest.raises(UserError, match=hint):
        check_slices(*given)
    check_slices(3, 24, 4)
