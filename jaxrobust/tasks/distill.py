"""Robust data set distillation, end to end: train teachers, distil, train students on
the images and on controls of the same size, attack, compare."""

import time
from collections.abc import Callable

import numpy as np

from jaxrobust import registry
from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.evaluators.check import Check
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.tasks.card import accuracy_checks, seeds_check
from jaxrobust.tasks.distilling.judging import Judge
from jaxrobust.tasks.distilling.sets import (
    WHOLE,
    Arm,
    Sets,
    build_arms,
    check_sizes,
    set_bytes,
)
from jaxrobust.tasks.distilling.students import Students
from jaxrobust.tasks.distilling.summary import answer, write_summary
from jaxrobust.tasks.finish import finish
from jaxrobust.tasks.results import Results, Row
from jaxrobust.tasks.rows import spent
from jaxrobust.tasks.setup import Config, Method, build_setup
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.workdir import Workdir, stage_folder

QUESTION = (
    "Do networks that learn from a few distilled images withstand attacks, and is it "
    "the images that make them?"
)
CONTROLS = ("random", "herding")


def distill(config: Config, path: str) -> None:
    """The task: every arm of `config.distill` at each number of images per class,
    beside as many real images, for every seed.

    Ref: Xue et al., GUARD, arXiv:2403.10045. Deviates: controls, several networks, and
    the same recovery for every teacher.
    """
    run = DistillRun(config, path)
    for number in range(run.spec["sets"]):
        for method in run.whole:
            run.teacher_row(method, number)
    for ipc in run.spec["ipc"]:
        for seed in config["seeds"]:
            run.controls(ipc, seed)
            for arm in run.arms:
                run.arm(arm, ipc, seed)
    run.finish()


class DistillRun:
    """Building one checks the whole configuration before it opens the directory."""

    def __init__(self, config: Config, path: str):
        self.started = time.monotonic()
        self.config, self.spec = config, config["distill"]
        self.setup = setup = build_setup(config)
        self.arms = build_arms(setup)
        self._check()
        named = (arm.real.name for arm in self.arms)
        names = dict.fromkeys([*named, *self.spec["references"]])
        self.whole = [registry.lookup("method", setup.methods, n) for n in names]
        self.students = Students(setup, config["student"])
        self.judge = Judge(setup, self.spec)
        self.steps = resolve_steps(config["train"], len(setup.splits.train))
        work = self._planned_work()
        workdir = Workdir(path, config)
        pool = make_pool(setup.splits.train, None)
        self.trainer = Trainer(setup, pool, workdir, Progress(work))
        self.sets = Sets(self.trainer, self.steps)
        self.results = Results(workdir, config["title"], QUESTION)

    def _check(self) -> None:
        spec, seeds = self.spec, self.config["seeds"]
        check_sizes(self.setup, spec["ipc"])
        for name in spec["controls"]:
            if name not in CONTROLS:
                raise unknown_name("control", name, CONTROLS)
        if not 0 < spec["sets"] <= len(seeds):
            raise UserError(
                f"distill.sets {spec['sets']} is not in 1..{len(seeds)}: the network "
                "of seed s learns from set s modulo this number"
            )

    @property
    def labellers(self) -> list[Method]:
        """Each method once whose networks label images."""
        soft = {arm.real.name: arm.real for arm in self.arms if arm.distiller.soft}
        return list(soft.values())

    def teacher_row(self, method: Method, number: int) -> None:
        """A network that was trained on all images."""
        name, trainer = f"{method.name} / {WHOLE}", self.trainer
        if self.results.find(name, number) is not None:
            trainer.progress.skip(trainer.stage("", method, self.steps).work)

        def compute() -> Row:
            fitted = self.sets.teacher(method, number)
            attack = trainer.attack_seconds(method, fitted.state, self.steps)
            images = self.setup.splits.train
            return {
                **self.judge(trainer.logits_fn(fitted.state)),
                **spent(fitted, self.steps, attack),
                "train_images": len(images),
                "set_bytes": set_bytes(images, None),
                "baseline": True,
            }

        self.results.row(name, number, compute)

    def controls(self, ipc: int, seed: int) -> None:
        """Students of as many real images, with the labels that distilled ones get."""
        number = seed % self.spec["sets"]
        made = {
            "random": lambda: self.sets.random(ipc, seed),
            "herding": lambda: self.sets.herding(self.whole[0], ipc, number),
        }
        for name in self.spec["controls"]:
            for method in self.labellers if name == "random" else ():
                kind = f"{name}_{method.name}"
                self._student(kind, ipc, seed, made[name], method, {"images": name})
            kind = f"{name}_hard"
            self._student(kind, ipc, seed, made[name], None, {"images": name})

    def arm(self, arm: Arm, ipc: int, seed: int) -> None:
        """Students of a distilled set: with the labels that the method gives, and with
        hard ones."""
        number = seed % self.spec["sets"]
        found = lambda: self.sets.distilled(arm, ipc, number)
        images = lambda: found().images
        facts = {"images": arm.name, "set": number}
        seconds = lambda: {"distil_seconds": found().facts["seconds"]}
        labels = arm.real if arm.distiller.soft else None
        self._student(arm.name, ipc, seed, images, labels, facts, seconds)
        if arm.distiller.soft and self.spec["hard_labels"]:
            kind = f"{arm.name}_hard"
            self._student(kind, ipc, seed, images, None, facts, seconds)

    def _student(
        self,
        kind: str,
        ipc: int,
        seed: int,
        images: Callable[[], ImageSet],
        labels: Method | None,
        facts: Row,
        late: Callable[[], Row] = dict,
    ) -> None:
        """The row "<kind> / ipc <ipc>" of `seed`; `labels` is whose networks label."""
        name, progress = f"{kind} / ipc {ipc}", self.trainer.progress
        if self.results.find(name, seed) is not None:
            count = ipc * self.setup.splits.num_classes
            progress.skip(self.students.work(count, labels is not None))

        def compute() -> Row:
            given = images()
            number = seed % self.spec["sets"]
            teacher = None if labels is None else self.sets.variables(labels, number)
            stage = stage_folder(name, seed)
            fitted = self.students.train(
                stage, given, teacher, seed, self.trainer.workdir, progress
            )
            return {
                **self.judge(self.trainer.logits_fn(fitted.state)),
                **spent(fitted, self.config["student"]["num_steps"], 0.0),
                "train_images": len(given),
                "set_bytes": set_bytes(given, teacher),
                "ipc": ipc,
                "labels": "hard" if labels is None else labels.name,
                "recipe": "student",
                **facts,
                **late(),
                "baseline": facts["images"] in CONTROLS,
            }

        self.results.row(name, seed, compute)

    def finish(self) -> None:
        """Compare, write, conclude."""
        rows = self.results.runs
        checks = [
            seeds_check(self.setup),
            *accuracy_checks(rows, self.setup),
            *_suite_checks(rows),
        ]
        write_summary(self.trainer.workdir, self.results, self.arms, self.spec["ipc"])
        words = answer(self.results, self.arms, self.spec["ipc"])
        finish(self.setup, self.trainer, self.results, words, checks, self.started)

    def _planned_work(self) -> float:
        """Teachers, sets and students, in forward passes of one image."""
        spec, seeds = self.spec, len(self.config["seeds"])
        batch = self.config["train"]["batch_size"]
        a_set = sum(self.steps * batch * m.gradients for m in self.whole)
        a_seed, soft = 0.0, len(self.labellers)
        for ipc in spec["ipc"]:
            count = ipc * self.setup.splits.num_classes
            works = [self.students.work(count, labels) for labels in (False, True)]
            a_set += sum(arm.distiller.work(ipc) for arm in self.arms)
            a_seed += len(spec["controls"]) * works[0]
            a_seed += soft * works[1] * ("random" in spec["controls"])
            for arm in self.arms:
                a_seed += works[arm.distiller.soft]
                a_seed += works[0] * (arm.distiller.soft and spec["hard_labels"])
        return spec["sets"] * a_set + seeds * a_seed


def _suite_checks(rows: list[Row]) -> list[Check]:
    """Where AutoAttack was run: that it finds what the other attacks find, but for what
    its fewer images explain."""
    seen = [r for r in rows if "aa_acc" in r]
    if not seen:
        return []
    higher = [r["name"] for r in seen if r["aa_acc"] > r["worst_acc"] + _slack(r)]
    value = ", ".join(higher) or f"in all of {len(seen)} networks"
    note = "a suite that finds less than single attacks is broken"
    return [Check("AutoAttack finds what they find", not higher, value, note)]


def _slack(row: Row) -> float:
    """Two standard errors of a share over the suite's images, and a little."""
    share = row["worst_acc"]
    return 2 * float(np.sqrt(share * (1 - share) / row["aa_images"])) + 0.02
