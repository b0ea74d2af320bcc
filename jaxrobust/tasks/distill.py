"""Robust data set distillation, end to end: train teachers, distil, train students on
the images and on controls of the same size, attack, compare."""

import time

import numpy as np

from jaxrobust import registry
from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.evaluators.check import Check
from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.state import bind
from jaxrobust.tasks.card import accuracy_checks, seeds_check
from jaxrobust.tasks.distilling.cases import (
    CONTROLS,
    Case,
    build_others,
    plan_cases,
)
from jaxrobust.tasks.distilling.judging import Judge
from jaxrobust.tasks.distilling.sets import (
    WHOLE,
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
            for case in run.cases:
                run.case(case, ipc, seed)
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
        self.cases = plan_cases(self.arms, self.spec)
        models = {"": setup.model, **build_others(setup)}
        self.students = {
            name: Students(setup, config["student"], model)
            for name, model in models.items()
        }
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
                **self.judge(trainer.logits_fn(fitted.state), with_suite=True),
                **spent(fitted, self.steps, attack),
                "train_images": len(images),
                "set_bytes": set_bytes(images, None),
                "baseline": True,
            }

        self.results.row(name, number, compute)

    def case(self, case: Case, ipc: int, seed: int) -> None:
        """The row of a network that learnt `ipc` images of every class."""
        name, students = case.name(ipc), self.students[case.architecture]
        if self.results.find(name, seed) is not None:
            count = ipc * self.setup.splits.num_classes
            work = students.work(count, case.labels is not None)
            self.trainer.progress.skip(work)

        def compute() -> Row:
            images, facts = self._images(case, ipc, seed)
            labels, number = case.labels, seed % self.spec["sets"]
            teacher = None if labels is None else self.sets.variables(labels, number)
            fitted = students.train(
                stage_folder(name, seed), images, teacher, seed,
                self.trainer.workdir, self.trainer.progress,
            )  # fmt: skip
            weights = self.trainer.variables(fitted.state)
            logits_fn = bind(students.model, weights, "running")
            own = {"architecture": case.architecture} if case.architecture else {}
            return {
                **self.judge(logits_fn, with_suite=not case.architecture),
                **spent(fitted, self.config["student"]["num_steps"], 0.0),
                "train_images": len(images),
                "set_bytes": set_bytes(images, teacher),
                "ipc": ipc,
                "images": case.images,
                "labels": "hard" if labels is None else labels.name,
                "recipe": "student",
                **own,
                **facts,
                "baseline": case.arm is None,
            }

        self.results.row(name, seed, compute)

    def _images(self, case: Case, ipc: int, seed: int) -> tuple[ImageSet, Row]:
        """What a case learns, and what is to be said of how it was made."""
        number = seed % self.spec["sets"]
        if case.arm is not None:
            found = self.sets.distilled(case.arm, ipc, number)
            facts = {"set": number, "distil_seconds": found.facts["seconds"]}
            return found.images, facts
        if case.images == "random":
            return self.sets.random(ipc, seed), {}
        return self.sets.herding(self.whole[0], ipc, number), {}

    def finish(self) -> None:
        """Compare, write, conclude."""
        rows = self.results.runs
        checks = [
            seeds_check(self.setup),
            *accuracy_checks(rows, self.setup),
            *_suite_checks(rows),
        ]
        said = self.results, self.arms, self.spec["ipc"], tuple(self.students)
        write_summary(self.trainer.workdir, *said)
        words = answer(*said)
        finish(self.setup, self.trainer, self.results, words, checks, self.started)

    def _planned_work(self) -> float:
        """Teachers, sets and students, in forward passes of one image."""
        spec, seeds = self.spec, len(self.config["seeds"])
        batch = self.config["train"]["batch_size"]
        a_set = sum(self.steps * batch * m.gradients for m in self.whole)
        a_seed = 0.0
        for ipc in spec["ipc"]:
            count = ipc * self.setup.splits.num_classes
            a_set += sum(arm.distiller.work(ipc) for arm in self.arms)
            a_seed += sum(
                self.students[case.architecture].work(count, case.labels is not None)
                for case in self.cases
            )
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
