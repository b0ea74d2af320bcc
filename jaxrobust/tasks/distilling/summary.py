"""What the rows of a distillation say together: differences, scores, one answer."""

import itertools
import math
from typing import Any

from jaxrobust.tasks.distilling.cases import beside, row_name
from jaxrobust.tasks.distilling.sets import WHOLE, Arm
from jaxrobust.tasks.results import Results, Row, difference, verdict
from jaxrobust.workdir import Workdir

FILE = "distilled.json"


def write_summary(
    workdir: Workdir,
    results: Results,
    arms: list[Arm],
    ipcs: tuple[int, ...],
    networks: tuple[str, ...],
) -> None:
    """`distilled.json`: {"scores": one entry for each ipc, network that learns, and
    arm}; `networks` are architectures, "" the run's own."""
    means = {row["name"]: row for row in results.mean_rows()}
    scores = [
        scored(means, arm, arms[0], ipc, network)
        for ipc in ipcs
        for network in networks
        for arm in arms
    ]
    workdir.write(FILE, {"scores": scores})


def scored(
    means: dict[str, Row], arm: Arm, first: Arm, ipc: int, network: str
) -> dict[str, Any]:
    """How good the images are, beside what the labels do, clean and in the worst case.

    `over_random`: the arm's accuracy less that of random images with the same labels
    (DD-Ranking's IOR); `hard_gap`: what its images lack with hard labels against all
    images (HLR), for the run's own networks, as others never learnt those. What was not
    asked for has no entry.
    """
    control = row_name(beside(arm), ipc, network)
    with_classes = f"{arm.name}_hard" if arm.distiller.soft else arm.name
    hard = "" if network else row_name(with_classes, ipc, "")
    own, whole = means[row_name(arm.name, ipc, network)], means[whole_name(first)]
    found: dict[str, Any] = {"arm": arm.name, "ipc": ipc, "network": network}
    for kind in ("clean", "worst"):
        key = f"{kind}_acc"
        if control in means:
            found[f"{kind}_over_random"] = own[key] - means[control][key]
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


def answer(
    results: Results,
    arms: list[Arm],
    ipcs: tuple[int, ...],
    networks: tuple[str, ...],
) -> str:
    """Every arm against the first of its method, clean and in the worst case, and the
    networks of all images that they come from; the same learnt by other networks; then
    all arms against real images."""
    found = []
    for arm, plain in _pairs(arms):
        found += _teachers(results, arm, plain)
        for ipc in ipcs:
            pair = row_name(arm.name, ipc, ""), row_name(plain.name, ipc, "")
            words = f"{arm.name} - {plain.name}, ipc {ipc}"
            found.append(f"{words}: {_both(results, pair)}")
    gaps = _transferred(results, arms, ipcs, networks)
    if gaps:
        found.append(f"Learnt by other networks, {_UNITS}: {'; '.join(gaps)}.")
    gaps = _against_real(results, arms, ipcs, networks)
    if gaps:
        words = "Less as many real images with the same labels"
        found.append(f"{words}, {_UNITS}: {'; '.join(gaps)}.")
    return " ".join(found)


_UNITS = "points clean / in the worst case, * where told from chance at 95%"


def _pairs(arms: list[Arm]) -> list[tuple[Arm, Arm]]:
    """Every arm with the first of its method, but for that one itself."""
    first: dict[str, Arm] = {}
    pairs = [(arm, first.setdefault(arm.how, arm)) for arm in arms]
    return [(arm, plain) for arm, plain in pairs if arm is not plain]


def _transferred(results: Results, arms, ipcs, networks) -> list[str]:
    """The gaps between the arms of a method in networks that are not the run's own."""
    return [
        f"{network}, {arm.name} - {plain.name}, ipc {ipc}, "
        + _gap(results, *(row_name(a.name, ipc, network) for a in (arm, plain)))
        for network in networks
        if network
        for arm, plain in _pairs(arms)
        for ipc in ipcs
    ]


def _against_real(results: Results, arms, ipcs, networks) -> list[str]:
    """The gaps to as many random real images with the same labels."""
    gaps = []
    for network, arm, ipc in itertools.product(networks, arms, ipcs):
        control = row_name(beside(arm), ipc, network)
        if results.values(control, "clean_acc"):
            gap = _gap(results, row_name(arm.name, ipc, network), control)
            words = f"{network}, " if network else ""
            gaps.append(f"{words}{arm.name}, ipc {ipc}, {gap}")
    return gaps


def _gap(results: Results, first: str, second: str) -> str:
    """first - second in points, clean and in the worst case."""
    kinds = ("clean", "worst")
    return " / ".join(_points(results, (first, second), f"{k}_acc") for k in kinds)


def _points(results: Results, pair: tuple[str, str], column: str) -> str:
    told = verdict(results, *pair, column).endswith(("higher", "lower"))
    gap = 100 * difference(results, *pair, column)[0]
    return f"{gap:+.1f}{'*' * told}"


def _both(results: Results, pair: tuple[str, str]) -> str:
    clean, worst = (verdict(results, *pair, f"{k}_acc") for k in ("clean", "worst"))
    return f"clean {clean}; worst case {worst}."


def _teachers(results: Results, arm: Arm, plain: Arm) -> list[str]:
    names = [whole_name(a) for a in (arm, plain)]
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


def whole_name(arm: Arm) -> str:
    """The row of the networks that learnt all images as the arm's real ones are."""
    return f"{arm.real.name} / {WHOLE}"
