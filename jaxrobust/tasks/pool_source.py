"""Where a run's generated images come from: files, or a generator trained in it."""

from functools import cached_property

from flax import linen as nn

from jaxrobust import data
from jaxrobust.data.image_set import ImageSet
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.tasks.card import Check
from jaxrobust.tasks.flops import classifier_flops, denoiser_flops
from jaxrobust.tasks.generate import (
    build_denoiser,
    check_conditional,
    generate_pool,
    generator_work,
    pool_check,
)
from jaxrobust.tasks.setup import Setup
from jaxrobust.workdir import Workdir


class PoolSource:
    """Building one checks `config.generated` and `config.generator`, and loads files;
    only `open` writes. Without `needs_labels` images may come without, as label -1."""

    def __init__(self, setup: Setup, needs_labels: bool = True):
        self.setup = setup
        self._loaded = load_pool(setup, needs_labels)
        self._denoiser: nn.Module | None = None
        if self._loaded is None:
            spec = setup.config["generator"]
            self._denoiser = build_denoiser(spec, setup.splits.num_classes)
            if needs_labels:
                check_conditional(setup)

    @property
    def work(self) -> float:
        """The work of making the pool, 0 where it was loaded."""
        if self._denoiser is None:
            return 0.0
        return generator_work(self.setup.config["generator"], self._unit)

    def open(self, workdir: Workdir, progress: Progress) -> ImageSet:
        """The pool, made as far as it is missing."""
        if self._loaded is not None:
            return self._loaded
        assert self._denoiser is not None
        model = self._denoiser
        return generate_pool(self.setup, model, workdir, progress, self._unit)

    @cached_property
    def _unit(self) -> float:
        """A forward pass of the generator in those of the classifier."""
        assert self._denoiser is not None
        return denoiser_flops(self.setup, self._denoiser) / classifier_flops(self.setup)

    def checks(self, workdir: Workdir) -> list[Check]:
        """That no test image got into a pool that was made here."""
        return [pool_check(workdir)] if self._denoiser else []


def load_pool(setup: Setup, needs_labels: bool = True) -> ImageSet | None:
    """The generated pool from files, or None where this run is to make it."""
    spec = setup.config["generated"]
    if spec["name"] == "diffusion":
        return None
    names = setup.splits.train.class_names
    given = {"class_names": names, "needs_labels": needs_labels}
    pool = data.load_split(split="train", **given, **spec)
    # A pool of other shape or classes shows now.
    make_pool(setup.splits.train, pool)
    return pool
