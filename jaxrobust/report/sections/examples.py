"""What fools a network looks like: images before and after, and the difference."""

from typing import NamedTuple

import numpy as np

from jaxrobust.report import style
from jaxrobust.report.numbers import is_number, radius
from jaxrobust.report.page import Picture, Pictures, Section
from jaxrobust.report.run import Row, Run

_COLUMNS, _MOST = 4, 8
_TILE, _PITCH = 96, 114  # CSS pixels
_NEEDED = {"image", "x_adv", "label", "clean", "robust", "prediction"}
_WORDS = 15  # characters that fit under a tile
_GRAY = 0.5


class _Example(NamedTuple):
    clean: np.ndarray  # u8[H,W,C], like the next two
    attacked: np.ndarray
    difference: np.ndarray
    text: str


def fooled_examples(run: Run) -> Section | None:
    """Images that fooled the most robust network of which any are kept."""
    row, data, picked = _find(run)
    if row is None:
        return None
    examples, factor = _examples(run, row, data, picked)
    sheets = [
        _sheet(f"fooled-{start // _COLUMNS}", examples[start : start + _COLUMNS])
        for start in range(0, len(examples), _COLUMNS)
    ]
    seed = f", seed {row['seed']}" if "seed" in row else ""
    caption = (
        f"Images that fooled {row.get('name', 'the network')}{seed}, from every attack "
        "of the suite in turn. Columns from top to bottom: clean, attacked, and the "
        f"difference × {factor:.3g} around mid-gray{_reach(row)}. Under them the "
        "class, what the attacked image is read as, and the attack."
    )
    return Section("Images that fool", (Pictures(tuple(sheets), caption),))


def pick(data: dict[str, np.ndarray]) -> np.ndarray:
    """At most eight fooled images i64[n]: the first of each attack, then the second."""
    fooled = np.flatnonzero(data["clean"].astype(bool) & ~data["robust"].astype(bool))
    by = data.get("fooled_by", np.zeros(len(data["clean"]), int))
    turn = np.zeros(len(fooled), int)
    for attack in np.unique(by[fooled]):
        its = by[fooled] == attack
        turn[its] = np.arange(its.sum())
    chosen = fooled[np.lexsort((by[fooled], turn))[:_MOST]]
    return chosen[np.argsort(by[chosen], kind="stable")]


def amplify(delta: np.ndarray, row: Row) -> tuple[np.ndarray, float]:
    """u8 images of delta f32[n,H,W,C] around mid-gray, and the factor.

    The radius of linf, or else the largest change shown, becomes black or white.
    """
    largest = row.get("eps") if row.get("norm") == "linf" else None
    if not is_number(largest) or not largest > 0:
        largest = float(np.max(np.abs(delta), initial=0.0)) or _GRAY
    factor = _GRAY / float(largest)
    return _bytes(_GRAY + factor * delta), factor


def _find(run: Run) -> tuple[Row | None, dict[str, np.ndarray], np.ndarray]:
    best = lambda row: row["aa_acc"] if is_number(row.get("aa_acc")) else -1.0
    for row in sorted(run.runs, key=best, reverse=True):
        data = run.adversarial(row)
        if data.keys() >= _NEEDED:
            picked = pick(data)
            if len(picked):
                return row, data, picked
    return None, {}, np.zeros(0, int)


def _examples(run: Run, row: Row, data, picked) -> tuple[list[_Example], float]:
    image, x_adv = data["image"][picked], data["x_adv"][picked]
    if image.dtype != np.uint8:
        image = _bytes(image)
    difference, factor = amplify(x_adv - image.astype(np.float32) / 255, row)
    names = [_names(run, data, i) for i in picked]
    narrow = all(len(f"{a} → {b}") <= _WORDS for a, b in names)
    texts = [f"{a}{' ' if narrow else chr(10)}→ {b}" for a, b in names]
    attacks = [_attack(data, i) for i in picked]
    examples = [
        _Example(image[n], _bytes(x_adv[n]), difference[n], f"{text}\n{attack}".strip())
        for n, (text, attack) in enumerate(zip(texts, attacks))
    ]
    return examples, factor


def _names(run: Run, data: dict[str, np.ndarray], i: int) -> tuple[str, str]:
    pair = (data["label"][i], data["prediction"][i])
    label, read = (style.shorten(run.class_name(number), _WORDS - 2) for number in pair)
    return label, read


def _attack(data: dict[str, np.ndarray], i: int) -> str:
    names = data.get("components", np.zeros(0, str))
    number = int(data["fooled_by"][i]) if "fooled_by" in data else -1
    return style.shorten(str(names[number]), _WORDS) if 0 <= number < len(names) else ""


def _sheet(name: str, examples: list[_Example]) -> Picture:
    lines = max(example.text.count("\n") + 1 for example in examples)
    rows = ("clean", "attacked", "difference")
    top, gap = 4, 6
    height = top + len(rows) * (_TILE + gap) + 14 * lines + 4
    figure = style.canvas(style.HALF, height, transparent=True)
    for column, example in enumerate(examples):
        for row, kind in enumerate(rows):
            text = example.text if row == len(rows) - 1 else ""
            left, down = column * _PITCH, top + row * (_TILE + gap)
            style.place(figure, getattr(example, kind), left, down, _TILE, text)
    alt = f"{len(examples)} images: clean, attacked, and the difference"
    return Picture(name, figure, alt, photo=True)


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _reach(row: Row) -> str:
    eps, norm = row.get("eps"), row.get("norm")
    if norm == "linf" and is_number(eps) and eps > 0:
        return f" (eps {radius(float(eps), norm)} is full contrast)"
    return " (the largest change is full contrast)"
