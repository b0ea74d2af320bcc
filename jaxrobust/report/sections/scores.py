"""Where the kept and the dropped images lie in the plane of the two scores."""

import numpy as np

from jaxrobust.report import style
from jaxrobust.report.page import Picture, Pictures, Section
from jaxrobust.report.run import Run, Selection

_MOST_DOTS = 3000  # more only darkens the same clouds
_LEAST = 1e-6  # what float32 resolves above 0.5, the floor of both scores
_AXES = {"w_nat": "W_nat (natural error)", "w_bdy": "W_bdy (boundary error)"}


def score_scatter(run: Run) -> Section | None:
    """W_nat against W_bdy for the last selection of the first seed."""
    found = ((s, s.arrays()) for s in run.latest_selections)
    needed = {*_AXES, "kept"}
    shown, data = next((pair for pair in found if needed <= pair[1].keys()), (None, {}))
    if shown is None or not len(data["kept"]):
        return None
    generated = data.get("generated", np.zeros(len(data["kept"]), bool)).astype(bool)
    groups = [("original", "o", ~generated), ("generated", "^", generated)]
    logs = {key: crowded(data[key]) for key in _AXES}
    pictures = tuple(
        _scatter(name, marker, data, rows, logs)
        for name, marker, rows in groups
        if rows.any()
    )
    caption = _caption(shown, any(logs.values()))
    return Section("Scores of the images", (Pictures(pictures, caption),))


def crowded(values: np.ndarray) -> bool:
    """Whether most scores lie so close to their floor that only a log axis shows them.

    Once a model fits its training set, nearly every sigmoid of a norm is almost 0.5.
    """
    above = values - 0.5
    return bool(above.min() >= 0 and np.median(above) < 0.1 * above.max())


def _scatter(name: str, marker: str, data: dict, rows: np.ndarray, logs) -> Picture:
    kept_here = int(data["kept"][rows].sum())
    title = f"{name.capitalize()} images: {kept_here:,} of {int(rows.sum()):,} kept"
    figure = style.canvas(style.HALF, 330)
    axes = style.panel(figure, title, left=54)
    style.rule(axes, "both")
    # Drawn in a mixed order, or the group drawn last would cover the other.
    picked = np.random.default_rng(0).permutation(np.flatnonzero(rows))[:_MOST_DOTS]
    kept = data["kept"][picked].astype(bool)
    x, y = (_position(data[key], logs[key]) for key in _AXES)
    axes.scatter(
        x[picked],
        y[picked],
        s=style.px(5) ** 2,
        c=list(np.where(kept, style.BLUE, style.AMBER)),
        marker=marker,
        alpha=0.6,
        linewidths=0,
    )
    _limits(axes.set_xscale, axes.set_xlim, x, logs["w_nat"])
    _limits(axes.set_yscale, axes.set_ylim, y, logs["w_bdy"])
    for text, color in (("kept", style.BLUE), ("dropped", style.AMBER)):
        axes.scatter([], [], s=style.px(7) ** 2, c=color, marker=marker, label=text)
    style.key(axes, loc="lower right", borderaxespad=0.2)
    style.name_axes(axes, *(_name(key, logs[key]) for key in _AXES))
    alt = f"W_nat against W_bdy of the {name} images, kept and dropped"
    return Picture(f"scores-{name}", figure, alt)


def _position(values: np.ndarray, log: bool) -> np.ndarray:
    return np.maximum(values - 0.5, _LEAST) if log else values


def _name(key: str, log: bool) -> str:
    return f"{key.capitalize()} − 0.5, log scale" if log else _AXES[key]


def _limits(set_scale, set_limits, values: np.ndarray, log: bool) -> None:
    # Of all images, so that the clouds of both plots can be compared by eye.
    low, high = float(values.min()), float(values.max())
    if log:
        set_scale("log")
        set_limits(low / 1.5, high * 1.5)
    else:
        margin = 0.04 * (high - low) or 0.01
        set_limits(low - margin, high + margin)


def _caption(shown: Selection, log: bool) -> str:
    method = f" ({shown.info['method']})" if shown.info.get("method") else ""
    text = (
        f"Selection {shown.name}{method}; kept images were trained on. W_nat grows "
        "with the distance of the prediction from the label, W_bdy with the move of "
        "the prediction under attack: easy and stable images lie at the lower left."
    )
    floor = f" A score within {_LEAST:g} of 0.5, the least one, is drawn at that edge."
    return text + floor if log else text
