"""Which images a training run sees, step by step: one subset, or one that changes.

What a sampler hands out is a function of the step and of subsets that are kept on disk,
so a resumed run sees the same images.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from jaxrobust import loader, rng
from jaxrobust.errors import UserError
from jaxrobust.types import Subset, TrainState


class Sampler(Protocol):
    """Asked by the training loop; every process gets the same answers."""

    def chooses(self, step: int) -> bool:
        """Whether the state at `step` is needed to choose what comes from there on; no
        chunk of steps reaches across."""
        ...

    def batches(
        self, state: TrainState, step: int, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pool positions i32[count,B] and weights f32[count,B] of the steps from `step`
        on, where `state` is."""
        ...


class FixedSampler:
    """One subset, a new order in each epoch."""

    def __init__(self, subset: Subset, seed: int, batch_size: int):
        self.subset, self.seed, self.batch_size = subset, seed, batch_size

    def chooses(self, step: int) -> bool:
        """Never: nothing is chosen."""
        return False

    def batches(self, state: TrainState, step: int, count: int):
        """As `Sampler`."""
        return loader.batches(self.subset, self.seed, self.batch_size, step, count)


class RedrawnSampler:
    """A new random subset of `budget` images in every epoch of that many images.

    Ref: Okanovic et al., Repeated Random Sampling for Minimizing the Time-to-Accuracy
    of Learning, arXiv:2305.18424 (with replacement between epochs).
    """

    def __init__(self, size: int, budget: int, seed: int, batch_size: int):
        self.size, self.budget = size, budget
        self.seed, self.batch_size = seed, batch_size
        self.per_epoch = loader.steps_per_epoch(budget, batch_size)

    def chooses(self, step: int) -> bool:
        """Never: the draws need no network."""
        return False

    def subset(self, epoch: int) -> Subset:
        """The images of an epoch."""
        return Subset.uniform(
            rng.host_choice(self.seed, DRAWS + epoch, self.size, self.budget)
        )

    def batches(self, state: TrainState, step: int, count: int):
        """As `Sampler`."""
        found, end = [], step + count
        while step < end:
            epoch = step // self.per_epoch
            count = min((epoch + 1) * self.per_epoch, end) - step
            subset = self.subset(epoch)
            found.append(
                loader.batches(subset, self.seed, self.batch_size, step, count)
            )
            step += count
        index, weight = zip(*found)
        return np.concatenate(index), np.concatenate(weight)


class PeriodicSampler:
    """A subset chosen anew every `period_steps`, by the network as it is then.

    The first `first_steps` steps train on `first`. `choose(step, state)` gives the
    subset from `step` on; it keeps what it has chosen, as it is asked again with a
    later state, or after a restart.
    """

    def __init__(
        self,
        first: Subset,
        choose: Callable[[int, TrainState], Subset],
        first_steps: int,
        period_steps: int,
        seed: int,
        batch_size: int,
    ):
        self.first, self.choose = first, choose
        self.first_steps, self.period_steps = first_steps, period_steps
        self.seed, self.batch_size = seed, batch_size

    def chooses(self, step: int) -> bool:
        """At the end of the first steps, and of every period."""
        return step >= self.first_steps and step == self._origin(step)

    def _origin(self, step: int) -> int:
        """The step from which on the present subset is in use."""
        if step < self.first_steps:
            return 0
        return step - (step - self.first_steps) % self.period_steps

    def batches(self, state: TrainState, step: int, count: int):
        """As `Sampler`."""
        origin = self._origin(step)
        subset = self.choose(origin, state) if origin else self.first
        return loader.batches(subset, self.seed, self.batch_size, step, count, origin)


class WatchedSampler:
    """Another sampler, and `look(step, state)` every `every_steps` steps."""

    def __init__(
        self,
        sampler: Sampler,
        look: Callable[[int, TrainState], object],
        every_steps: int,
    ):
        self.sampler, self.look, self.every_steps = sampler, look, every_steps

    def chooses(self, step: int) -> bool:
        """Where the other one does, and where there is something to see."""
        return self._looks(step) or self.sampler.chooses(step)

    def _looks(self, step: int) -> bool:
        return step > 0 and step % self.every_steps == 0

    def batches(self, state: TrainState, step: int, count: int):
        """As `Sampler`."""
        if self._looks(step):
            self.look(step, state)
        return self.sampler.batches(state, step, count)


class MixedSampler:
    """Real images and `generated` others in every batch.

    The real ones come without replacement, a new order in each epoch; the others are
    drawn from `pool_positions` int[M] with replacement: their number is of no matter.
    `real_weight` None weights all images alike; gamma in [0,1] makes the loss
    gamma mean_real + (1 - gamma) mean_generated.

    Ref: Sehwag et al., arXiv:2104.09425, section 3 (gamma = 0.5); Gowal et al.,
    arXiv:2110.09468 (by count). Deviates: the former's code ignores its gamma.
    """

    def __init__(
        self,
        real: Subset,
        pool_positions: np.ndarray,
        generated: int,
        real_weight: float | None,
        seed: int,
        batch_size: int,
    ):
        self.real, self.pool_positions = real, pool_positions
        self.count, self.seed = generated, seed
        self.own = batch_size - generated
        if not 0 < self.own < batch_size:
            raise UserError(
                f"a batch of {batch_size} with {generated} generated images is not a "
                "mixture: set mix.generated_percent between 0 and 100"
            )
        loader.steps_per_epoch(len(real.index), self.own)
        share = self.own / batch_size
        gamma = share if real_weight is None else real_weight
        self._weight = np.concatenate(
            [
                np.full(self.own, gamma / share, np.float32),
                np.full(generated, (1 - gamma) / (1 - share), np.float32),
            ]
        )

    def chooses(self, step: int) -> bool:
        """Never: the draws need no network."""
        return False

    def batches(self, state: TrainState, step: int, count: int):
        """As `Sampler`."""
        index, weight = loader.batches(self.real, self.seed, self.own, step, count)
        drawn = np.stack([self._draw(step + i) for i in range(count)])
        weight = np.concatenate([weight, np.ones_like(drawn, np.float32)], axis=1)
        return np.concatenate([index, drawn], axis=1), weight * self._weight

    def _draw(self, step: int) -> np.ndarray:
        places = rng.host_draw(self.seed, step, len(self.pool_positions), self.count)
        return self.pool_positions[places].astype(np.int32)

    def passes(self, num_steps: int) -> dict[str, float]:
        """How often a real and a generated image is seen on average."""
        return {
            "real_passes": num_steps * self.own / len(self.real.index),
            "generated_passes": num_steps * self.count / len(self.pool_positions),
        }


DRAWS = 1_000_000
"""Random streams of redrawn subsets begin here, apart from those of other choices."""
