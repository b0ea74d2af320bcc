"""proxy.json: how far the generated pool is from the data, and what that bounds."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from jax.tree_util import Partial

from jaxrobust import rng, sharding
from jaxrobust.attacks.minimum_eps import minimum_eps_bisection
from jaxrobust.data.image_set import ImageSet
from jaxrobust.evaluators.passes import MinimumEpsPass
from jaxrobust.files import write_json
from jaxrobust.loader import Feed, Pool
from jaxrobust.proxy.measure import explain
from jaxrobust.proxy.wasserstein import compared
from jaxrobust.tasks.discriminating import Discriminating
from jaxrobust.tasks.labelling import Labelled
from jaxrobust.tasks.setup import Setup, make_attack
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.threat import ThreatModel
from jaxrobust.types import LogitsFn, TrainState

logger = logging.getLogger(__name__)
FILE = "proxy.json"
MOST_IMAGES = 50_000
"""Generated images that are looked at, out of a pool of any size."""


class Explaining:
    """What `config.explain` asks for; building one checks it.

    The data are the test images, which neither generator nor networks have seen.
    """

    def __init__(self, setup: Setup):
        self.setup, self.spec = setup, setup.config["explain"]
        threat = setup.threat
        attack = self.spec["attack"]
        make = partial(make_attack, attack)
        make(threat)
        halvings = self.spec["num_halvings"]
        search = lambda ball: minimum_eps_bisection(make, ball, halvings)
        size = setup.config["eval"]["batch_size"]
        self._search = MinimumEpsPass(search, size, setup.mesh)
        self._discriminating = Discriminating(setup)
        widest = float(threat.eps) * self.spec["largest_ratio"]
        self._ball = ThreatModel(widest, threat.norm)

    def work(self, networks: int) -> float:
        """The work of attacking so many networks on both sides, and of training those
        that tell real from generated images."""
        return networks * self._searching + self._discriminating.work

    @property
    def _searching(self) -> float:
        splits, spec = self.setup.splits, self.spec
        images = min(spec["limit_per_class"] * splits.num_classes, len(splits.test))
        steps = spec["attack"].get("num_steps", 1)
        return 2 * images * spec["num_halvings"] * 2 * steps

    def __call__(
        self,
        trainer: Trainer,
        labelled: Labelled,
        networks: Mapping[str, Callable[[], TrainState]],
    ) -> None:
        """Write the file, unless it is there."""
        path = trainer.workdir.path / FILE
        if path.exists():
            trainer.progress.skip(self.work(len(networks)))
            return
        test = self.setup.splits.test
        limit, seed = self.spec["limit_per_class"], self.spec["seed"]
        count = min(len(labelled.kept), MOST_IMAGES)
        some = rng.host_choice(seed, 0, len(labelled.kept), count)
        pool = labelled.pool.take(labelled.kept[some])
        pair = compared(test, pool, limit, seed)
        sides = test.take(pair.original), pool.take(pair.generated)
        found, distances = {}, {}
        for number, (name, state) in enumerate(networks.items(), 1):
            frozen = trainer.frozen(state())
            found[name] = frozen.logits_fn, Partial(_embedding, frozen.features_fn)
            pair_found = tuple(self._distances(frozen.logits_fn, s) for s in sides)
            shown = f"{number}/{len(networks)}"
            trainer.progress.update(self._searching, f"explain {name}", shown, {})
            if _known(pair_found, pair.label):
                distances[name] = pair_found
            else:
                logger.warning(
                    "%s: no attack got out of some class; its robustness is left out, "
                    "raise explain.largest_ratio",
                    name,
                )
        facts = explain(
            test, pool, found, distances, self.setup.threat.norm, limit, seed
        )
        arc = self._discriminating(test, pool, trainer.workdir, trainer.progress)
        facts |= {"arc": arc} if arc else {}
        if sharding.is_lead():
            write_json(path, facts)

    def _distances(self, logits_fn: LogitsFn, images: ImageSet) -> np.ndarray:
        """f32[n], to the nearest adversarial image that was found, inf for none."""
        feed = Feed(Pool((images,)), self.setup.mesh, device_gb=4.0)
        key = sharding.replicate_key(rng.purpose_key(0, "eval"), self.setup.mesh)
        index = np.arange(len(images))
        found, _ = self._search(logits_fn, feed, index, key, self._ball)
        return found


def _known(sides: tuple[np.ndarray, ...], label: np.ndarray) -> bool:
    """Whether each class has an image with a known distance, on each side."""
    return all(
        np.isfinite(side[label == k]).any() for side in sides for k in np.unique(label)
    )


def _embedding(features_fn, image: jax.Array) -> jax.Array:
    return features_fn(image)[1]
