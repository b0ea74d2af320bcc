"""BatchNorm by parts of a batch, against flax's on each part."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.errors import UserError
from jaxrobust.models import MODELS
from jaxrobust.models.batch_groups import GroupedBatchNorm
from jaxrobust.models.wide_resnet import wide_resnet
from tests.bench import communication
from tests.helpers import assert_trees_close, on_devices, variables_of

GIVEN = {"momentum": 0.9, "epsilon": 1e-5, "dtype": jnp.float32}
X = jax.random.normal(jax.random.key(0), (6, 5, 4, 7)) * 2 + 0.7
DIRECTION = jax.random.normal(jax.random.key(1), X.shape)


def variables(seed=2):
    draw = jax.random.uniform(jax.random.key(seed), (4, X.shape[-1])) + 0.5
    names = ("scale", "bias"), ("mean", "var")
    params, stats = (dict(zip(n, draw[i : i + 2])) for i, n in zip((0, 2), names))
    return {"params": params, "batch_stats": stats}


def both(module, variables, x, along):
    """(result, new statistics), gradients of a sum by variables and x."""

    def of(params, x):
        given = variables | {"params": params}
        out, stats = module.apply(given, x, mutable=["batch_stats"])
        return jnp.sum(out * along), (out, stats["batch_stats"])

    grad = jax.value_and_grad(of, argnums=(0, 1), has_aux=True)
    (_, found), slopes = grad(variables["params"], x)
    return found, slopes


@pytest.mark.parametrize("groups", (1, 2, 3))
def test_every_part_is_normalised_by_itself(groups):
    ours = GroupedBatchNorm(bn_groups=groups, use_running_average=False, **GIVEN)
    theirs = nn.BatchNorm(use_running_average=False, **GIVEN)
    (out, stats), (by_params, by_x) = both(ours, variables(), X, DIRECTION)
    size = len(X) // groups
    parts = [
        both(theirs, variables(), X[i : i + size], DIRECTION[i : i + size])
        for i in range(0, len(X), size)
    ]
    join = lambda rows: jnp.concatenate(list(rows))
    np.testing.assert_allclose(out, join(p[0][0] for p in parts), atol=1e-5)
    np.testing.assert_allclose(by_x, join(p[1][1] for p in parts), atol=1e-5)
    total = jax.tree.map(lambda *x: sum(x), *[p[1][0] for p in parts])
    assert_trees_close(by_params, total, rtol=1e-4, atol=1e-5)
    mean = jax.tree.map(lambda *x: sum(x) / groups, *[p[0][1] for p in parts])
    assert_trees_close(stats, mean, rtol=1e-5, atol=1e-6)


def test_running_statistics_know_no_parts():
    ours = GroupedBatchNorm(bn_groups=4, use_running_average=True, **GIVEN)
    theirs = nn.BatchNorm(use_running_average=True, **GIVEN)
    found, expected = (module.apply(variables(), X) for module in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused():
    ours = GroupedBatchNorm(bn_groups=4, use_running_average=False, **GIVEN)
    with pytest.raises(UserError, match="batch of 6 .* bn_groups = 4"):
        ours.apply(variables(), X, mutable=["batch_stats"])


@pytest.mark.parametrize(
    "name", ("resnet18", "resnet20", "preact_resnet18", "wide_resnet")
)
def test_factories_hand_it_on(name):
    layers = MODELS[name](3, (0.5,), (0.25,), bn_groups=2).layers
    assert layers.bn_groups == 2
    norms = [layers.normalisation(train, "norm") for train in (True, False)]
    assert getattr(norms[0], "bn_groups", 1) == 2 and type(norms[1]) is nn.BatchNorm


def test_a_network_sees_its_parts():
    model = partial(wide_resnet, 3, (0.5,), (0.25,), depth=10, width=1)
    x, net = X[:, :4, :, :1], variables_of(model())
    net = jax.tree.map(lambda leaf: 0.3 * leaf if leaf.ndim > 1 else leaf, net)

    @partial(jax.jit, static_argnums=0)
    def run(groups, x):
        apply = partial(model(bn_groups=groups).apply, mutable=["batch_stats"])
        return apply(net, x, train=True)[0]

    parts, found = [run(1, part) for part in (x[:3], x[3:])], run(2, x)
    np.testing.assert_allclose(found, jnp.concatenate(parts), rtol=1e-2, atol=1e-3)
    assert float(abs(run(1, x) - found).max()) > 0.03


def counted():
    """{groups: (bytes, exchanges) of a PGD step on two devices}"""
    options = {"width": 4}
    return {
        groups: communication.exchanged("resnet20", 4, 2, bn_groups=groups, **options)
        for groups in (1, 2)
    }


def test_a_part_for_each_device_leaves_only_the_update_to_exchange():
    found = on_devices(2, counted)
    assert found["1"][1] > 400
    # Gradients and running statistics, one by one where nothing combines them.
    assert found["2"][1] < 110 and found["2"][0] < 1.1 * found["1"][0]
