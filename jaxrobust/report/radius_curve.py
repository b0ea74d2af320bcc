"""Accuracy against the radius: of a network, from the rows of its seeds."""

from jaxrobust.report.numbers import is_number
from jaxrobust.report.run import Row

RadiusCurve = dict[float, float]  # radius -> accuracy


def mean_curve(rows: list[Row], key: str, at_zero: str) -> RadiusCurve:
    """{radius: mean accuracy} of the pairs under `key`, at radii that all rows have.

    `at_zero` is the key of the accuracy at radius 0, for rows whose pairs begin later;
    "" for none. Rows without pairs do not count.
    """
    curves = []
    for row in rows:
        points = [p for p in row.get(key) or [] if all(map(is_number, p))]
        curve = {float(radius): float(accuracy) for radius, accuracy in points}
        if curve and is_number(row.get(at_zero)):
            curve.setdefault(0.0, float(row[at_zero]))
        if curve:
            curves.append(curve)
    if not curves:
        return {}
    radii = sorted(set.intersection(*map(set, curves)))
    return {r: sum(c[r] for c in curves) / len(curves) for r in radii}
