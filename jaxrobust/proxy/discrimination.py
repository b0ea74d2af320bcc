"""How much room an attacker needs until real and generated images look the same."""

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid

from jaxrobust import rng
from jaxrobust.data import ImageSet
from jaxrobust.data.image_set import gather
from jaxrobust.errors import UserError
from jaxrobust.proxy.wasserstein import compared

CHANCE = 0.5


def discrimination_area(eps: Sequence[float], accuracy: Sequence[float]) -> float:
    """ARC: the area between robust discrimination accuracy and chance, in units of eps.

    `accuracy[i]` in [0,1] is that of a network trained adversarially at `eps[i]` to
    tell real from generated, on held-out images attacked at `eps[i]`. By trapezoids up
    to the last eps; the area beyond is lost unless the curve has come down to 0.5.
    Smaller means closer: 0 for sets that nobody tells apart.

    Ref: the robust discrimination of Sehwag et al., arXiv:2104.09425v3. Deviates: an
    accuracy below 0.5 counts as 0.5, which a constant answer reaches under any attack.
    Raises `UserError` unless there are two eps or more that increase.
    """
    radii, above = np.asarray(eps, float), np.asarray(accuracy, float) - CHANCE
    if len(radii) < 2 or len(radii) != len(above) or (np.diff(radii) <= 0).any():
        raise UserError(
            f"ARC needs an accuracy for each of two or more increasing eps, not eps "
            f"{list(eps)} and accuracies {list(accuracy)}"
        )
    if not ((above >= -CHANCE) & (above <= CHANCE)).all():
        raise UserError(f"accuracies must lie in [0,1], not {list(accuracy)}")
    return float(trapezoid(np.maximum(above, 0.0), radii))


def discrimination_set(
    real: ImageSet, generated: ImageSet, seed: int
) -> tuple[ImageSet, ImageSet]:
    """(train, held out): images labelled 0 for real and 1 for generated, half each.

    Both labels have the same number of images of every class, so that no class gives
    the answer away. `rows` count through the real set and on through the generated one.
    Raises `UserError` as `compared` does, and where the halves would be empty.
    """
    most = max(len(real), len(generated))
    pair = compared(real, generated, most, seed)
    halves = [np.zeros(len(pair.label), bool), np.zeros(len(pair.label), bool)]
    for k in np.unique(pair.label):
        rows = np.flatnonzero(pair.label == k)
        order = rng.permutation(seed, int(k), len(rows))
        halves[0][rows[order[: len(rows) // 2]]] = True
        halves[1][rows[order[len(rows) // 2 :]]] = True
    if not halves[0].any():
        raise UserError("telling real from generated needs two images of some class")
    first, second = (_labelled(real, generated, pair, half) for half in halves)
    return first, second


def _labelled(real: ImageSet, generated: ImageSet, pair, half: np.ndarray) -> ImageSet:
    sides = pair.original[half], pair.generated[half]
    image = [gather(images.image, at) for images, at in zip((real, generated), sides)]
    return ImageSet(
        image=np.concatenate(image),
        label=np.repeat(np.arange(2, dtype=np.int32), len(sides[0])),
        class_names=("real", "generated"),
        provenance=f"real: {real.provenance}; generated: {generated.provenance}",
        rows=np.concatenate([sides[0], len(real) + sides[1]]),
    )
