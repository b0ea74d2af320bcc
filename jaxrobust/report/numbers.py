"""How quantities are named and printed: fractions become percent only here."""

import math
import re
from collections.abc import Iterable
from typing import Any, TypeGuard

from jaxrobust.report.page import Cell
from jaxrobust.report.run import Row

_LABELS = {
    "clean_acc": "Clean",
    "noise_acc": "Noise",
    "fgsm_acc": "FGSM",
    "pgd_acc": "PGD",
    "pgd_long_acc": "PGD, long",
    "mim_acc": "MIM",
    "apgd_acc": "APGD",
    "fab_acc": "FAB",
    "cw_acc": "CW",
    "cw_l2_acc": "CW l2",
    "deepfool_acc": "DeepFool",
    "square_acc": "Square",
    "aa_acc": "AutoAttack",
    "certified_acc": "Certified",
    "loss": "Training loss",
    "acc": "Training accuracy",
    "val_clean_acc": "Validation accuracy, clean",
    "val_pgd_acc": "Validation accuracy, PGD",
    "probe_fgsm_acc": "Probe accuracy, FGSM",
    "probe_pgd_acc": "Probe accuracy, PGD",
    "grad_norm": "Gradient norm",
    "max_distance": "Largest distance",
    "train_images": "Training images",
    "generated_share": "Generated",
    "keep": "P_up",
    "flops": "Compute (TFLOP)",
}
_PASSES = {"forwards", "backwards", "idle"}
_NOT_A_QUANTITY = {"name", "seed", "seeds", "baseline", "steps_per_epoch"} | _PASSES
_NOT_A_QUANTITY |= {"budget"}  # the name of a row says it
_NOT_A_QUANTITY |= {"memory_bytes", "peak_memory_bytes"}


def label(key: str, rows: Iterable[Row] = ()) -> str:
    """A column or axis title for a quantity of `rows`, without its unit.

    The worst case of a suite of attacks is called what its rows call the suite.
    """
    suites = suite_names(rows) if key == "aa_acc" else []
    if suites:
        short = {re.split(r" \(|,", name)[0] for name in suites}
        return min(short) if len(short) == 1 else "Suite of attacks"
    if key in _LABELS:
        return _LABELS[key]
    words = key.removesuffix("_acc").replace("_", " ").strip() or key
    return words[0].upper() + words[1:]


def suite_names(rows: Iterable[Row]) -> list[str]:
    """The full names of the suites of attacks that `rows` report, each once."""
    names = (row.get("suite_name") for row in rows)
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def is_accuracy(key: str) -> bool:
    """Whether `key` is an accuracy: a fraction, and more of it is better."""
    return key == "acc" or key.endswith("_acc")


def is_fraction(key: str) -> bool:
    """Whether `key` is printed as percent."""
    return is_accuracy(key) or key.endswith("_share")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether `value` is a number (a truth value is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def quantities(rows: list[Row]) -> list[str]:
    """The measured keys of result rows, accuracies first; no times, no spreads."""
    seen = dict.fromkeys(key for row in rows for key in row)
    keys = [
        key
        for key in seen
        if key not in _NOT_A_QUANTITY
        and not key.endswith(("_std", "_seconds"))
        and any(is_number(row.get(key)) for row in rows)
    ]
    return sorted(known_first(keys), key=lambda key: not is_accuracy(key))


def known_first(keys: Iterable[str]) -> list[str]:
    """`keys` with those of this module's table first, in its order."""
    place = {key: i for i, key in enumerate(_LABELS)}
    return sorted(keys, key=lambda key: place.get(key, len(place)))


def seed_count(row: Row) -> int:
    """How many seeds a result row is the mean of."""
    return len(row.get("seeds") or [0])


def cell(row: Row, key: str, best: bool = False) -> Cell:
    """The value of `key` in `row`, with its spread where it is a mean over seeds."""
    value = row.get(key)
    if value is None or isinstance(value, dict | list):
        return Cell("–")
    if not is_number(value):
        return Cell(str(value))
    if key == "eps" and "norm" in row:
        return Cell(radius(float(value), str(row["norm"])))
    scale = percent if is_fraction(key) else teraflops if key == "flops" else quantity
    spread = row.get(f"{key}_std")
    if not is_number(spread) or seed_count(row) < 2:
        return Cell(scale(value), best=best)
    return Cell(scale(value), scale(spread), best)


def percent(fraction: float) -> str:
    """0.98 -> `98.0`."""
    return f"{100 * fraction:.1f}"


def radius(eps: float, norm: str) -> str:
    """eps as people of the field write it: `8/255`, or `0.15` where that is not whole.

    Only linf is written in 8-bit steps.
    """
    in_255 = 255 * eps
    if norm == "linf" and 0 < eps < 1 and abs(in_255 - round(in_255)) < 1e-3:
        return f"{round(in_255)}/255"
    return f"{eps:.4g}"


def quantity(value: float) -> str:
    """A count in full with commas, any other number with four digits."""
    if isinstance(value, int) or (math.isfinite(value) and value == round(value)):
        return f"{int(value):,}" if abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:.4g}"


def teraflops(count: float) -> str:
    """1.23e13 floating-point operations -> `12.3`: three digits or all whole ones."""
    tera = count / 1e12
    if 0 < tera < 0.1:
        return f"{tera:.3g}"
    return f"{tera:,.{0 if tera >= 100 else 1 if tera >= 10 else 2}f}"


def duration(seconds: float) -> str:
    """0.83 -> `0.8 s`, 75 -> `75 s`, 200 -> `3 min 20 s`, 7500 -> `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
