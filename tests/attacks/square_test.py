"""Square: its schedule, its patterns, and what a query may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks.machine import Work
from jaxrobust.attacks.square import square, square_machine
from jaxrobust.attacks.square_shapes import (
    covered,
    origin,
    pattern,
    placed,
    profiles,
    window_sides,
)
from jaxrobust.errors import UserError
from jaxrobust.threat import NORMS, ThreatModel
from tests.helpers import image_keys, random_images

SHAPE, COUNT = (6, 7, 2), 5
IMAGE = jnp.asarray(random_images(COUNT, shape=SHAPE))
KEYS = image_keys(np.arange(COUNT))
EPS = {"linf": 0.1, "l2": 0.8, "l1": 2.0}
WEIGHT = np.random.default_rng(0).normal(size=(np.prod(SHAPE), 3)) / 4


def network(x):
    """Three classes, of which the first is always the most likely."""
    hidden = jnp.tanh(x.reshape(len(x), -1) @ jnp.asarray(WEIGHT, jnp.float32))
    return hidden + 10.0 * jnp.eye(3)[:1]


WORK = Work(KEYS, IMAGE, jnp.zeros(COUNT, jnp.int32), jnp.ones(COUNT, jnp.int32))


def history(norm, num_queries, rescale=True, work=WORK):
    """(margins, points tried, best points) after each step."""
    machine = square_machine(
        ThreatModel(EPS[norm], norm), num_queries, 0.8, rescale=rescale
    )

    def body(state, position):
        positions = jnp.full(len(work.image), position, jnp.int32)
        state = machine.step(work, network, state, positions)
        return state, (state.margin, state.x_adv, state.x_best)

    numbers = jnp.arange(machine.num_steps)
    run = jax.jit(lambda: jax.lax.scan(body, machine.start(work), numbers)[1])
    return [np.asarray(x) for x in run()]


def segments(sides):
    """{first query: side} of each run of equal sides."""
    starts = [0, *(np.flatnonzero(np.diff(sides)) + 1)]
    return {int(k): int(sides[k]) for k in starts}


def test_sides_of_the_reference():
    plain = window_sides("linf", 5000, 0.8, False, 32, 32)
    assert segments(plain) == {
        0: 29, 11: 20, 51: 14, 201: 10, 501: 7, 1001: 5, 2001: 4, 4001: 3
    }  # fmt: skip
    rescaled = window_sides("linf", 5000, 0.8, True, 32, 32)
    assert segments(rescaled) == {
        0: 29, 6: 20, 26: 14, 101: 10, 251: 7, 501: 5, 1001: 4, 2001: 3, 3001: 2,
        4001: 1,
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_sides_of_patterns_are_odd(norm):
    sides = window_sides(norm, 5000, 0.8, False, 32, 32)
    assert segments(sides) == {0: 29, 11: 21, 51: 15, 201: 11, 501: 7, 1001: 5, 4001: 3}


def test_a_window_fits_the_image():
    assert window_sides("linf", 20, 1.0, False, 4, 9).max() == 4
    assert window_sides("l2", 20, 1.0, False, 2, 2).max() == 2


def test_windows_start_anywhere_but_at_the_end():
    uniform = jnp.linspace(0.0, 1.0 - 1e-6, 1000)
    starts = origin(uniform, 10, jnp.full(1000, 3))
    assert set(np.asarray(starts).tolist()) == set(range(7))
    assert int(origin(uniform, 10, jnp.full(1000, 10)).max()) == 0
    inside = covered(starts, jnp.full(1000, 3), 10)
    np.testing.assert_array_equal(inside.sum(1), 3)
    np.testing.assert_array_equal(jnp.argmax(inside, 1), starts)


@pytest.mark.parametrize("norm,power", [("l2", 2), ("l1", 1)])
def test_patterns_are_two_pyramids_of_unit_norm(norm, power):
    table = profiles(norm, 9)
    for side in range(1, 10):
        eta = pattern(table, side)
        halves = [(np.abs(x) ** power).sum() for x in np.split(eta, [side // 2])]
        np.testing.assert_allclose(sum(halves), 1.0, atol=1e-6)
        assert (eta[: side // 2] > 0).all() and (eta[side // 2 :] < 0).all()
        np.testing.assert_allclose(eta, eta[:, ::-1] if side % 2 else eta, atol=1e-7)
        if side > 1:
            np.testing.assert_allclose(halves[0], halves[1], atol=1e-6)


def test_a_pyramid_is_a_pile_of_squares():
    lower = -pattern(profiles("l2", 5), 5)[2:]
    pile = np.zeros((3, 5))
    pile[1, 2] += 1.0
    pile[:, 1:4] += 1 / 4
    pile += 1 / 9
    np.testing.assert_allclose(lower / lower[1, 2], pile / pile[1, 2], rtol=1e-6)


def test_patterns_are_placed_and_turned():
    table, eta = profiles("l2", 5), pattern(profiles("l2", 5), 3)
    top, left = jnp.asarray([1, 3]), jnp.asarray([4, 0])
    side, turned = jnp.asarray([3, 3]), jnp.asarray([False, True])
    values = placed(table, top, left, side, turned, (6, 7))
    np.testing.assert_allclose(values[0, 1:4, 4:7], eta, rtol=1e-6)
    np.testing.assert_allclose(values[1, 3:6, 0:3], eta.T, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_ball_and_box_at_every_query(norm):
    margin, tried, best = history(norm, 300)
    threat = ThreatModel(EPS[norm], norm)
    for x in tried:
        distance = threat.distance(x, IMAGE)
        assert distance.max() <= EPS[norm] * (1 + 1e-5)
        assert x.min() >= 0 and x.max() <= 1
    # The best point never loses, gains now and then, and has the margin it claims.
    assert (np.diff(margin, axis=0) >= 0).all()
    assert (margin[-1] > margin[0] + 0.1).all()
    claimed = losses.margin(network(best[-1]), WORK.label)
    np.testing.assert_allclose(margin[-1], claimed, atol=1e-5)


def test_a_linf_query_changes_one_square_to_the_surface():
    sides = window_sides("linf", 60, 0.8, True, *SHAPE[:2])
    _, tried, best = history("linf", 60)
    for query, side in enumerate(sides):
        moved = np.abs(tried[query + 1] - best[query]) > 1e-6
        for row in moved:
            for axis in (0, 1):
                others = tuple(k for k in range(3) if k != axis)
                (places,) = np.nonzero(row.any(others))
                assert len(places) == 0 or np.ptp(places) < side
    free = (IMAGE > 0.1) & (IMAGE < 0.9)
    size = np.abs(tried[-1] - IMAGE)
    np.testing.assert_allclose(size[free], EPS["linf"], atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_neighbours_draw_their_own_windows(norm):
    same = WORK._replace(image=jnp.full_like(IMAGE, 0.5))
    tried = history(norm, 3, work=same)[1]
    assert len(np.unique(tried[1].reshape(COUNT, -1), axis=0)) == COUNT
    again = WORK._replace(image=same.image, keys=image_keys(np.zeros(COUNT, int)))
    tried = history(norm, 3, work=again)[1]
    assert len(np.unique(tried[1].reshape(COUNT, -1), axis=0)) == 1


@pytest.mark.parametrize("norm", NORMS)
def test_needs_no_gradients(norm):
    # NumPy behind a callback: JAX can call it and not look inside.
    def opaque(x):
        shape = jax.ShapeDtypeStruct((len(x), 3), jnp.float32)
        logits = lambda x: np.asarray(x).reshape(len(x), -1) @ WEIGHT
        call = lambda x: logits(x).astype(np.float32)
        return jax.pure_callback(call, shape, x)

    label = jnp.argmax(opaque(IMAGE), axis=1)
    attack = square(ThreatModel(EPS[norm], norm), 60, 1, 0.8, True)
    x = jax.jit(lambda: attack(KEYS, opaque, IMAGE, label))()
    before, after = (losses.margin(opaque(x), label) for x in (IMAGE, x))
    assert (after > before).all() and (after > 0).any()


def test_a_share_is_asked_for():
    with pytest.raises(UserError, match="p_init of square"):
        square(ThreatModel(0.1, "linf"), 10, 1, 80.0, False)
