"""Which networks learn from what: distilled sets and controls, with each kind of label,
and once more by networks of other architectures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flax import linen as nn

from jaxrobust.errors import UserError
from jaxrobust.tasks.distilling.sets import Arm
from jaxrobust.tasks.setup import Method, Setup, build_model

CONTROLS = ("random", "herding")


@dataclass(frozen=True)
class Case:
    """A fresh network learns `images`, those of `arm` or of a control.

    `labels` is whose networks label them, None for the classes themselves;
    `architecture` one of `distill.transfer`, or "" for that of the run.
    """

    kind: str
    images: str
    labels: Method | None
    arm: Arm | None
    architecture: str

    def name(self, ipc: int) -> str:
        """Of its rows."""
        return row_name(self.kind, ipc, self.architecture)


def row_name(kind: str, ipc: int, architecture: str) -> str:
    """`sre2l / ipc 10`, or `sre2l / ipc 10 / resnet20`."""
    ending = f" / {architecture}" if architecture else ""
    return f"{kind} / ipc {ipc}{ending}"


def beside(arm: Arm) -> str:
    """The kind of the control that an arm is compared with: random real images with the
    same labels."""
    return f"random_{arm.real.name if arm.distiller.soft else 'hard'}"


def labellers(arms: Sequence[Arm]) -> list[Method]:
    """Each method once whose networks label images."""
    soft = {arm.real.name: arm.real for arm in arms if arm.distiller.soft}
    return list(soft.values())


def plan_cases(arms: Sequence[Arm], spec: Mapping[str, Any]) -> list[Case]:
    """All cases of one number of images and one seed; `spec` is `config.distill`.

    Other architectures learn what an arm's claim needs: its images with its own labels,
    and as many random real ones with the same.
    """
    own = _controls(arms, spec["controls"])
    for arm in arms:
        soft = arm.distiller.soft
        own.append(Case(arm.name, arm.name, arm.real if soft else None, arm, ""))
        if soft and spec["hard_labels"]:
            own.append(Case(f"{arm.name}_hard", arm.name, None, arm, ""))
    compared = {name for arm in arms for name in (arm.name, beside(arm))}
    carried = [case for case in own if case.kind in compared]
    return own + [
        replace(case, architecture=name)
        for name in spec["transfer"]
        for case in carried
    ]


def _controls(arms: Sequence[Arm], controls: Sequence[str]) -> list[Case]:
    found = []
    for name in controls:
        for method in labellers(arms) if name == "random" else ():
            found.append(Case(f"{name}_{method.name}", name, method, None, ""))
        found.append(Case(f"{name}_hard", name, None, None, ""))
    return found


def build_others(setup: Setup) -> dict[str, nn.Module]:
    """The networks of `distill.transfer` by name; raises `UserError` for one that
    cannot be built or whose name cannot be that of a folder."""
    found = {}
    for name, spec in setup.config["distill"]["transfer"].items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(
                f"distill.transfer {name!r} names folders: use letters, digits, _ . -"
            )
        missing = [key for key in ("mean", "std") if key not in spec]
        if missing:
            raise UserError(
                f"distill.transfer.{name} needs {' and '.join(missing)}, as model has: "
                "one entry for each channel, or () to measure them"
            )
        found[name] = build_model(spec, setup.splits.train)
    return found
