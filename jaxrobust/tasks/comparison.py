"""The rows of a comparison: by choice, budget, rule and seed, each computed once."""

import dataclasses

import numpy as np

from jaxrobust.loader import make_pool
from jaxrobust.progress import Progress
from jaxrobust.tasks.choices import Choice
from jaxrobust.tasks.equal_time import plan_steps
from jaxrobust.tasks.fit import Fitted
from jaxrobust.tasks.results import Results, Row
from jaxrobust.tasks.rows import measured, suite_row
from jaxrobust.tasks.setup import Method, Setup
from jaxrobust.tasks.study import Study
from jaxrobust.tasks.trainer import Trainer, resolve_steps
from jaxrobust.workdir import Workdir, stage_folder

RULES = ("steps", "epochs", "time")
"""What is equal: gradient steps; passes over the own images, so that a share of them
takes that share of the steps; or seconds, those of choosing among them."""

QUESTION = "Which images should a robust network be trained on, at equal {}?"


class Comparison:
    """Trains and evaluates; rows that an earlier run has finished are not redone."""

    def __init__(self, setup: Setup, choices: dict[str, Choice], path: str):
        self.setup, self.choices = setup, choices
        config, self.spec = setup.config, setup.config["comparison"]
        pool = make_pool(setup.splits.train, None)
        self.steps = resolve_steps(config["train"], len(pool))
        method = setup.methods[self.spec["method"]]
        looks = any(choice.histories for choice in choices.values())
        every = self.spec["look_every_steps"] if looks else 0
        self.workdir = Workdir(path, config)
        self.progress = Progress(self._planned_work(method))
        self.trainer = Trainer(setup, pool, self.workdir, self.progress)
        self.study = Study(self.trainer, method, self.spec["ranking_steps"], every)
        question = QUESTION.format(" and at equal ".join(self.spec["rules"]))
        self.results = Results(self.workdir, config["title"], question)

    def run(self) -> None:
        """Every row. Time is measured at equal steps, so these come first."""
        rules = set(self.spec["rules"])
        for rule in ("steps", "epochs"):
            if rule in rules or (rule == "steps" and "time" in rules):
                self._rule(rule, lambda _, share, rule=rule: self._steps(share, rule))
        if "time" in rules:
            plan = plan_steps(self.workdir, self.results.runs, self._chunk)
            self._rule("time", lambda name, share: plan[row_name(name, share, "steps")])

    def cells(self) -> list[tuple[str, float]]:
        """Every choice at each of its budgets; everything and random ones first."""
        reference = lambda pair: (not pair[1].whole, not pair[1].by_chance)
        return [
            (name, share)
            for name, choice in sorted(self.choices.items(), key=reference)
            for share in self._shares(choice)
        ]

    def _shares(self, choice: Choice) -> tuple[float, ...]:
        return (1.0,) if choice.whole else tuple(self.spec["budgets"])

    @property
    def _chunk(self) -> int:
        return self.setup.config["train"]["chunk_steps"]

    def _steps(self, share: float, rule: str) -> int:
        """Of a row; at equal time those that it takes at equal steps."""
        if rule != "epochs":
            return self.steps
        return max(round(share * self.steps / self._chunk), 1) * self._chunk

    def _rule(self, rule: str, steps_of) -> None:
        for seed in self.setup.config["seeds"]:
            for name, share in self.cells():
                steps = steps_of(name, share)
                if steps:
                    self._row(name, share, seed, steps, rule)

    def _row(self, name: str, share: float, seed: int, steps: int, rule: str) -> None:
        """One network; where another rule has come to as many steps, it is that one."""
        title, choice = row_name(name, share, rule), self.choices[name]
        if self.results.find(title, seed) is not None:
            method = (choice.methods or {}).get(share, self.study.method)
            self.progress.skip(self.trainer.stage("", method, steps).work)

        def compute() -> Row:
            row = self._same(name, share, seed, steps) or {
                **self._compute(title, choice, share, seed, steps),
                "choice": name,
                "budget": share,
            }
            whole = self.results.find(row_name("full", 1.0, rule), seed)
            if rule == "epochs" and whole is not None:
                row["speed_up"] = whole["total_seconds"] / row["total_seconds"]
            return {**row, "rule": rule}

        self.results.row(title, seed, compute)

    def _same(self, name: str, share: float, seed: int, steps: int) -> Row | None:
        """The row of this network under another rule, if there is one."""
        for rule in RULES:
            row = self.results.find(row_name(name, share, rule), seed)
            if row is not None and row["steps"] == steps:
                own = ("name", "seed", "speed_up")
                found = {key: value for key, value in row.items() if key not in own}
                return {"same_as": row["name"], **found}
        return None

    def _compute(
        self, title: str, choice: Choice, share: float, seed: int, steps: int
    ) -> Row:
        plan = choice.plan(self.study, share, seed, steps)
        stage = stage_folder(title, seed)
        fitted = self.trainer.train_on(
            stage, plan.method, plan.sampler, plan.images, seed, steps
        )
        row, costs = measured(self.trainer, plan.method, fitted, steps), plan.costs()
        spent = {
            key: value
            for key, value in dataclasses.asdict(costs).items()
            if key.endswith("_seconds")
        }
        training = row["attack_seconds"] + row["train_seconds"]
        passes = steps * self.study.batch_size * plan.method.gradients
        return {
            **row,
            **self._worst_case(fitted),
            **spent,
            **plan.facts(),
            "total_seconds": training + sum(spent.values()),
            "flops": self.trainer.forward_flops * (passes + costs.passes),
            "train_images": plan.images,
            "program": plan.method.name,
            "by_chance": choice.by_chance,
            "baseline": choice.by_chance or choice.whole,
        }

    def _worst_case(self, fitted: Fitted) -> Row:
        """AutoAttack of the wanted version on the whole test set, or nothing."""
        if not self.spec["autoattack"]:
            return {}
        everything = np.arange(len(self.setup.splits.test))
        logits_fn = self.trainer.logits_fn(fitted.state)
        return suite_row(logits_fn, self.setup, everything, self.spec["autoattack"])

    def _planned_work(self, method: Method) -> float:
        """Training under every rule, where equal time is taken for equal steps."""
        a_seed = self.spec["ranking_steps"] * method.gradients
        for name, share in self.cells():
            own = (self.choices[name].methods or {}).get(share, method)
            steps = sum(self._steps(share, rule) for rule in self.spec["rules"])
            a_seed += steps * own.gradients
        train = self.setup.config["train"]
        return len(self.setup.config["seeds"]) * train["batch_size"] * a_seed


def row_name(choice: str, share: float, rule: str) -> str:
    """`el2n / 30%` at equal steps, `el2n / 30% equal time` and so on."""
    ending = f" equal {rule}" if rule != "steps" else ""
    return f"{choice} / {100 * share:g}%{ending}"
