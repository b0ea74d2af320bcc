"""What the rows of a distillation say together: differences, scores, one answer."""

import math
from typing import Any

from jaxrobust.tasks.distilling.sets import WHOLE, Arm
from jaxrobust.tasks.results import Results, Row, difference, verdict
from jaxrobust.workdir import Workdir

FILE = "distilled.json"


def write_summary(
    workdir: Workdir, results: Results, arms: list[Arm], ipcs: tuple[int, ...]
) -> None:
    """`distilled.json`: {"scores": one entry for each arm and ipc}."""
    means = {row["name"]: row for row in results.mean_rows()}
    scores = [scored(means, arm, arms[0], ipc) for ipc in ipcs for arm in arms]
    workdir.write(FILE, {"scores": scores})


def scored(means: dict[str, Row], arm: Arm, first: Arm, ipc: int) -> dict[str, Any]:
    """How good the images are, beside what the labels do, clean and in the worst case.

    `own`: the arm's accuracy; `over_random`: less that of random images with the same
    labels (DD-Ranking's IOR); `hard_gap`: what its images lack with hard labels against
    all images (HLR), both 0 where a row was not asked for.
    """
    soft = arm.distiller.soft
    beside = f"random_{arm.real.name if soft else 'hard'} / ipc {ipc}"
    hard = f"{arm.name}_hard / ipc {ipc}" if soft else f"{arm.name} / ipc {ipc}"
    own, whole = means[f"{arm.name} / ipc {ipc}"], means[f"{first.real.name} / {WHOLE}"]
    found: dict[str, Any] = {"arm": arm.name, "ipc": ipc}
    for kind in ("clean", "worst"):
        key = f"{kind}_acc"
        if beside in means:
            found[f"{kind}_over_random"] = own[key] - means[beside][key]
        if hard in means:
            found[f"{kind}_hard_gap"] = whole[key] - means[hard][key]
    if {"clean_over_random", "clean_hard_gap"} <= set(found):
        found["lrs"] = label_robust_score(
            found["clean_over_random"], found["clean_hard_gap"]
        )
    return found


def label_robust_score(over_random: float, hard_gap: float) -> float:
    """(e^a - e^-1) / (e - e^-1), a = (over_random - hard_gap) / 2: 0.27 for random real
    images that lack nothing, more for better ones.

    Ref: DD-Ranking, arXiv:2505.13300, label-robust score with both halves equal.
    Deviates: all images are learnt by the teachers' recipe, not by the students'.
    """
    a = 0.5 * over_random - 0.5 * hard_gap
    return (math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1))


def answer(results: Results, arms: list[Arm], ipcs: tuple[int, ...]) -> str:
    """Every arm against the first of its method, clean and in the worst case, and the
    networks of all images that they come from; then all arms against real images."""
    first: dict[str, Arm] = {}
    found = []
    for arm in arms:
        plain = first.setdefault(arm.how, arm)
        if plain is not arm:
            found += _teachers(results, arm, plain)
            for ipc in ipcs:
                pair = f"{arm.name} / ipc {ipc}", f"{plain.name} / ipc {ipc}"
                words = f"{arm.name} - {plain.name}, ipc {ipc}"
                found.append(f"{words}: {_both(results, pair)}")
    return " ".join([*found, _against_real(results, arms, ipcs)]).strip()


def _against_real(results: Results, arms: list[Arm], ipcs: tuple[int, ...]) -> str:
    """The gaps to as many random real images with the same labels, in points."""
    gaps = []
    for arm in arms:
        control = f"random_{arm.real.name if arm.distiller.soft else 'hard'}"
        for ipc in ipcs:
            pair = f"{arm.name} / ipc {ipc}", f"{control} / ipc {ipc}"
            if results.values(pair[1], "clean_acc"):
                points = [
                    _points(results, pair, f"{k}_acc") for k in ("clean", "worst")
                ]
                gaps.append(f"{arm.name}, ipc {ipc}, {' / '.join(points)}")
    if not gaps:
        return ""
    return (
        "Less as many real images with the same labels, points clean / in the worst "
        f"case, * where told from chance at 95%: {'; '.join(gaps)}."
    )


def _points(results: Results, pair: tuple[str, str], column: str) -> str:
    told = verdict(results, *pair, column).endswith(("higher", "lower"))
    gap = 100 * difference(results, *pair, column)[0]
    return f"{gap:+.1f}{'*' * told}"


def _both(results: Results, pair: tuple[str, str]) -> str:
    clean, worst = (verdict(results, *pair, f"{k}_acc") for k in ("clean", "worst"))
    return f"clean {clean}; worst case {worst}."


def _teachers(results: Results, arm: Arm, plain: Arm) -> list[str]:
    names = [f"{a.real.name} / {WHOLE}" for a in (arm, plain)]
    tops = [results.values(name, "hessian_top") for name in names]
    if names[0] == names[1] or not all(tops):
        return []
    lower = sum(a < b for a, b in zip(*tops))
    mean = [sum(top) / len(top) for top in tops]
    return [
        f"Networks of all images, {arm.real.name} - {plain.real.name}: "
        f"{_both(results, (names[0], names[1]))} Top Hessian eigenvalue {mean[0]:.3g} "
        f"against {mean[1]:.3g}, lower in {lower} of {len(tops[0])}."
    ]
