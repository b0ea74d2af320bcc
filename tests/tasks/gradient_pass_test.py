"""What coresets see of the pool: attacked images in the view that the step takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coreset
from jaxrobust.loader import Feed, make_pool
from jaxrobust.losses import cross_entropy
from jaxrobust.selection import Frozen
from jaxrobust.state import bind, bind_features, init_variables
from jaxrobust.tasks.choices.gradients import GradientPass
from jaxrobust.tasks.setup import build_setup
from jaxrobust.tree import plain

EPS = 0.1
KEY = jax.random.key(3)


def seen(eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(losses f32[N], own entries of delta f32[N]) of all training images within `eps`,
    moved by a pixel at random first."""
    c = coreset.get_config("smoke")
    c.threat.eps = eps
    c.methods.pgd_at.attack.start = "none"
    c.augment.crop_pad = 1
    setup = build_setup(plain(c))
    train = setup.splits.train
    variables = init_variables(setup.model, train.image.shape[1:], jax.random.key(0))
    frozen = Frozen(
        bind(setup.model, variables, "running"), bind_features(setup.model, variables)
    )
    feed = Feed(make_pool(train, None), setup.mesh, device_gb=1.0)
    look = GradientPass(setup, "pgd_at")
    factors, logits = look(frozen, feed, np.arange(len(train)), KEY)
    own = factors.delta[np.arange(len(train)), 0, train.label]
    return np.asarray(cross_entropy(logits, train.label)), own


@pytest.fixture(scope="module")
def attacked():
    return seen(EPS)


def test_the_attacked_view_loses_at_least_as_much_as_the_same_view_clean(attacked):
    clean, worst = seen(1e-6)[0], attacked[0]
    assert (worst >= clean - 1e-3).all()
    assert worst.mean() > clean.mean() + 0.05


def test_gradients_are_those_of_the_view_that_was_attacked(attacked):
    loss, own = attacked
    assert own == pytest.approx(np.asarray(jnp.exp(-loss)) - 1, abs=1e-5)
