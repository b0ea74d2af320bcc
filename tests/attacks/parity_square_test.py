"""Square against pyautoattack, which is fed the numbers that ours draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.machine import advance, fold_rows, where_rows
from jaxrobust.attacks.square import draw_uniform, square_machine
from jaxrobust.threat import ThreatModel
from tests.attacks import torch_twin

pytestmark = [pytest.mark.slow, pytest.mark.torch]
reference = pytest.importorskip("pyautoattack.square")
torch = pytest.importorskip("torch")
doubles = torch_twin.doubles

SHAPE, QUERIES = (20, 20, 2), 60
PICKED = (0, 2, 4, 10, 20, 40)
"""Places in the order of the margins, so that some images fall and some do not."""
HEIGHT, WIDTH, CHANNELS = SHAPE
EPS = {"linf": 0.06, "l2": 1.5, "l1": 15.0}


def drawn(norm, keys):
    """f64[B,N]: all that ours draws, in the order in which the reference asks."""
    draw = lambda position, shape: np.asarray(
        draw_uniform(fold_rows(keys, jnp.asarray(position)), shape)
    )
    if norm == "linf":
        count, start = 2, np.moveaxis(draw(0, (1, WIDTH, CHANNELS)), 3, 1)
    else:
        count, start = 5, draw(0, (5, 5, 1 + CHANNELS))
    queries = [draw(k + 1, (count + CHANNELS,)) for k in range(QUERIES)]
    return np.concatenate([x.reshape(len(keys), -1) for x in (start, *queries)], 1)


def feed(monkeypatch, numbers):
    """Make `torch.rand` hand out `numbers`."""
    numbers = iter(numbers)

    def rand(*shape):
        shape = shape[0] if isinstance(shape[0], (list, tuple)) else shape
        taken = [next(numbers) for _ in range(int(np.prod(shape)))]
        return torch.tensor(taken).reshape(list(shape))

    monkeypatch.setattr(torch, "rand", rand)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("norm", EPS)
def test_the_best_point_equals_the_reference(norm, rescale, monkeypatch):
    parts = torch_twin.weights(SHAPE)
    work = torch_twin.make_work(parts, SHAPE, 60)
    margin = losses.margin(torch_twin.jax_net(parts)(work.image), work.label)
    work = jax.tree.map(lambda x: x[jnp.argsort(-margin)[jnp.asarray(PICKED)]], work)
    machine = square_machine(ThreatModel(EPS[norm], norm), QUERIES, 0.8, rescale)
    net, zero = torch_twin.jax_net(parts), jnp.zeros(len(PICKED), jnp.int32)
    run = jax.jit(
        lambda work: advance(
            machine, net, work, machine.start(work), zero, QUERIES + 1, 0
        )
    )
    state, position, _ = run(work)
    found = np.asarray(state.found)
    assert found.any() and not found.all() and position.max() == QUERIES + 1

    attack = reference.SquareAttack(
        torch_twin.torch_net(parts), torch_twin.NORMS[norm], QUERIES, EPS[norm],
        resc_schedule=rescale,
    )  # fmt: skip
    ours, worst = np.asarray(where_rows(state.found, state.x_adv, state.x_best)), 0.0
    for row, numbers in enumerate(drawn(norm, work.keys)):
        feed(monkeypatch, numbers)
        x = torch_twin.to_nchw(work.image[row : row + 1])
        y = torch.tensor([int(work.label[row])])
        attack.init_hyperparam(x)
        queries, x_best = attack.attack_single_run(x, y)
        theirs = torch_twin.to_nhwc(x_best)[0]
        worst = max(worst, np.abs(theirs - ours[row]).max())
        assert int(position[row]) == int(queries)
    assert worst < 1e-9
