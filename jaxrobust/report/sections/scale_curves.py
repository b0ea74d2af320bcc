"""Accuracy against the number of generated images that a network was trained on."""

import numpy as np

from jaxrobust.report import style
from jaxrobust.report.numbers import is_number, label
from jaxrobust.report.page import Picture, Pictures, Section
from jaxrobust.report.run import Row, Run

_KEYS = ("clean_acc", "pgd_acc")


def scale_curves(run: Run) -> Section | None:
    """One panel for clean and one for attacked accuracy, on real and generated
    images."""
    rows = [row for row in run.runs if is_number(row.get("generated_clean_acc"))]
    if len({row.get("train_images") for row in rows}) < 2:
        return None
    pictures = tuple(_panel(rows, key) for key in _KEYS if key in rows[0])
    caption = (
        "Trained on generated images alone, at equal steps. Solid: on real test "
        "images; dashed: on other generated ones. One dot a seed, lines through means."
    )
    return Section("How many generated images", (Pictures(pictures, caption),))


def _panel(rows: list[Row], key: str) -> Picture:
    figure = style.canvas(style.HALF, 320)
    title = f"{label(key)} accuracy"
    axes = style.panel(figure, title, left=54, bottom=84)
    style.rule(axes, "both")
    for color, method in zip(
        style.PALETTE, dict.fromkeys(row["method"] for row in rows)
    ):
        mine = [row for row in rows if row["method"] == method]
        for prefix, dash in (("", "-"), ("generated_", (0, (4, 1.5)))):
            where = "generated" if prefix else "real"
            _line(axes, mine, prefix + key, color, dash, f"{method}, {where}")
    axes.set_xscale("log")
    sizes = sorted({row["train_images"] for row in rows})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    style.name_axes(axes, x="generated images", y="accuracy (%)")
    style.key(axes, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return Picture(f"scale-{key}".replace("_", "-"), figure, title)


def _line(axes, rows: list[Row], key: str, color: str, dash, name: str) -> None:
    sizes = np.array([row["train_images"] for row in rows])
    values = 100 * np.array([row[key] for row in rows])
    ticks = np.unique(sizes)
    means = [values[sizes == size].mean() for size in ticks]
    axes.plot(ticks, means, color=color, ls=dash, lw=style.px(1.8), label=name)
    axes.scatter(sizes, values, s=style.px(6) ** 2, color=color, alpha=0.6, lw=0)
