"""The networks that are trained on all images and the sets distilled by them, each made
once for a run directory."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from jaxrobust import registry, sharding
from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.evaluators.predict import predict
from jaxrobust.state import bind, bind_features, eval_variables
from jaxrobust.tasks.distilling import METHODS
from jaxrobust.tasks.distilling.artefact import (
    Distilled,
    pixels,
    read_distilled,
    write_distilled,
)
from jaxrobust.tasks.distilling.making import Distiller, Job, forget
from jaxrobust.tasks.distilling.picks import (
    PICKED,
    class_rows,
    herding_rows,
    random_rows,
)
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.tasks.trainer import Trainer
from jaxrobust.types import PyTree, Subset
from jaxrobust.workdir import stage_folder

WHOLE = "all images"


@dataclass(frozen=True)
class Arm:
    """One way to distil: `how`, from real images that are learnt by `real`."""

    name: str
    how: str
    real: Method
    distiller: Distiller


def build_arms(setup: Setup) -> list[Arm]:
    """The arms of `config.distill`; those that learn real images plainly come first, as
    others are compared with them."""
    spec, arms = setup.config["distill"], []
    for name, given in spec["arms"].items():
        if set(given) != {"method", "real"}:
            raise UserError(f"distill.arms.{name} needs method and real, has {given}")
        real = registry.lookup("method", setup.methods, given["real"])
        how = given["method"]
        options = registry.lookup("distill.methods", spec["methods"], how)
        distiller = registry.build(
            "distillation method", METHODS, {"name": how, **options}, setup=setup,
            real=real,
        )  # fmt: skip
        arms.append(Arm(name, how, real, distiller))
    if not arms:
        raise UserError("distill.arms is empty: name at least one way to distil")
    kind = lambda arm: setup.config["methods"][arm.real.name]["objective"]["name"]
    return sorted(arms, key=lambda arm: kind(arm) != "standard")


@dataclass
class Sets:
    """Teachers and image sets by number; what lies in the run directory is read."""

    trainer: Trainer
    steps: int
    _teachers: dict[tuple[str, int], Fitted] = field(default_factory=dict)
    _sets: dict[str, Distilled] = field(default_factory=dict)
    _herds: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    @property
    def setup(self) -> Setup:
        """What the run starts from."""
        return self.trainer.setup

    def teacher(self, method: Method, number: int) -> Fitted:
        """The network number `number` that learnt all images by `method`."""
        key = method.name, number
        if key not in self._teachers:
            subset = Subset.uniform(np.arange(len(self.trainer.pool)))
            stage = stage_folder(f"{method.name} / {WHOLE}", number)
            self._teachers[key] = self.trainer.train(
                stage, method, subset, number, self.steps
            )
        return self._teachers[key]

    def variables(self, method: Method, number: int) -> PyTree:
        """Its weights."""
        return eval_variables(self.teacher(method, number).state)

    def distilled(self, arm: Arm, ipc: int, number: int) -> Distilled:
        """Set number `number` of an arm."""
        name = f"{arm.name}-ipc{ipc}-set{number}"
        if name not in self._sets:
            trainer = self.trainer
            job = Job(name, ipc, number, trainer.workdir, trainer.progress)
            path = job.folder / f"{name}.npz"
            known = read_distilled(path)
            if known is None:
                known = self._make(arm, job)
                if sharding.is_lead():
                    model = self.setup.model
                    write_distilled(path, known, model.mean, model.std)
                    forget(job)
            else:
                trainer.progress.skip(arm.distiller.work(ipc))
            self._sets[name] = known
        return self._sets[name]

    def _make(self, arm: Arm, job: Job) -> Distilled:
        soft, started = arm.distiller.soft, time.monotonic()
        variables = self.variables(arm.real, job.number) if soft else None
        found = pixels(arm.distiller.distil(job, variables))
        train = self.setup.splits.train
        classes = len(found)
        label = np.repeat(np.arange(classes, dtype=np.int32), job.ipc)
        flat = found.reshape(-1, *found.shape[2:])
        origin = f"{arm.how} of {train.provenance}, {arm.real.name}, ipc {job.ipc}"
        images = ImageSet(flat, label, train.class_names, origin)
        logits = np.zeros((0, classes), np.float16)
        if variables is not None:
            logits = self._logits(variables, images).astype(np.float16)
        seconds = time.monotonic() - started
        return Distilled(images, logits, self._facts(arm, job, origin, seconds))

    def _logits(self, variables: PyTree, images: ImageSet) -> np.ndarray:
        network = bind(self.setup.model, variables, "running")
        size = min(self.setup.config["eval"]["batch_size"], len(images))
        return predict(network, lambda i: images.image[i], len(images), size)

    def _facts(self, arm: Arm, job: Job, origin: str, seconds: float) -> dict[str, Any]:
        config, train = self.setup.config, self.setup.splits.train
        student: Mapping[str, Any] = config["student"]
        recipe = "hard: the class that an image was made for"
        if arm.distiller.soft:
            recipe = (
                "soft: softmax(z / T) of the teacher's logits z for every view of an "
                "image; `logits` are those of the images as they are"
            )
        return {
            "origin": origin,
            "arm": arm.name,
            "method": arm.how,
            "settings": config["distill"]["methods"][arm.how],
            "real": config["methods"][arm.real.name],
            "ipc": job.ipc,
            "set": job.number,
            "labels": recipe,
            "student": dict(student),
            "teacher": stage_folder(f"{arm.real.name} / {WHOLE}", job.number),
            "data_sha256": train.fingerprint(),
            "seconds": seconds,
        }

    def random(self, ipc: int, number: int) -> ImageSet:
        """As many real images at random; other ones for every number."""
        train = self.setup.splits.train
        own = class_rows(train.label, train.num_classes)
        return train.take(random_rows(own, ipc, number, PICKED).reshape(-1))

    def herding(self, method: Method, ipc: int, number: int) -> ImageSet:
        """As many real images by herding, in the features of a network of `method`."""
        key = method.name, number
        if key not in self._herds:
            self._herds[key] = self._herd(method, number)
        rows = self._herds[key][:, :ipc].reshape(-1)
        return self.setup.splits.train.take(rows)

    def _herd(self, method: Method, number: int) -> np.ndarray:
        """The picks of every class int64[K,ipc] for the most that are asked for."""
        train, config = self.setup.splits.train, self.setup.config
        features_fn = bind_features(self.setup.model, self.variables(method, number))
        size = min(config["eval"]["batch_size"], len(train))
        gather = self.trainer.pool.gather
        feature = predict(Partial(_embedding, features_fn), gather, len(train), size)
        own = class_rows(train.label, train.num_classes)
        return herding_rows(feature, own, max(config["distill"]["ipc"]))


def set_bytes(images: ImageSet, teacher: PyTree | None) -> int:
    """Pixels and what labels need: 4 bytes each, or the teacher that is asked again."""
    pixels_size = int(np.prod(images.image.shape))
    if teacher is None:
        return pixels_size + 4 * len(images)
    return pixels_size + sum(leaf.nbytes for leaf in jax.tree.leaves(teacher))


def check_sizes(setup: Setup, ipcs: tuple[int, ...]) -> None:
    """Raises `UserError` unless every class has as many real images as controls
    need."""
    least = int(np.bincount(setup.splits.train.label).min())
    for ipc in ipcs:
        if not 0 < ipc <= least:
            raise UserError(
                f"distill.ipc {ipc} is not in 1..{least}, the images of the smallest "
                "class: the controls are as many real images"
            )


def _embedding(features_fn, image: jax.Array) -> jax.Array:
    return features_fn(image)[1]
