"""The section on certificates: its curves, its table, and what it leaves out."""

import numpy as np
import pytest

from jaxrobust.report.page import Pictures, Table, pictures_of
from jaxrobust.report.radius_curve import mean_curve
from jaxrobust.report.run import Run
from jaxrobust.report.sections.certified import certified_curves

from .conftest import built, captions

RADII = (0.0, 0.25, 0.5)


def row(name, seed, level, **others):
    curve = [[r, level * (1 - r)] for r in np.linspace(0, 0.8, 9).tolist()]
    found = {
        "name": name,
        "seed": seed,
        "certified_at": [[r, level * (1 - r)] for r in RADII],
        "certified_curve": curve,
        "radius": level / 2,
        "abstained": 0.125,
        "l2_radius": 0.5,
        "eps": 0.5,
        "norm": "l2",
        "sigma": 0.25,
        "n0": 100,
        "n": 10_000,
        "alpha": 0.001,
    }
    return found | others


def of_rows(*runs) -> Run:
    names = dict.fromkeys(r["name"] for r in runs)
    means = [next(r for r in runs if r["name"] == name) for name in names]
    return Run({}, {"runs": list(runs), "rows": means}, {}, {}, ())


def test_without_certificates_there_is_no_section():
    assert certified_curves(of_rows({"name": "a", "seed": 0})) is None


def test_a_curve_is_the_mean_over_seeds_at_shared_radii():
    rows = [row("a", 0, 0.8), row("a", 1, 0.4)]
    rows[1]["certified_at"] = rows[1]["certified_at"][:2]
    expected = {0.0: 0.6, 0.25: 0.45}
    assert mean_curve(rows, "certified_at", "") == pytest.approx(expected)
    assert mean_curve([{}], "certified_at", "") == {}


def test_the_table_has_a_line_a_network_and_a_column_a_radius():
    section = built(certified_curves(of_rows(row("a", 0, 0.8), row("b", 0, 0.4))))
    table = section.blocks[1]
    assert isinstance(table, Table)
    assert table.header[3:] == ("0", "0.25", "0.5")
    texts = [[cell.text for cell in line] for line in table.rows]
    assert texts[0] == ["a", "0.4", "0.125", "80.0", "60.0", "40.0"]
    assert texts[1][-1] == "20.0"


def test_every_network_has_its_line_and_the_threat_an_upright_one():
    section = built(certified_curves(of_rows(row("a", 0, 0.8), row("b", 0, 0.4))))
    pictures = list(pictures_of([section]))
    axes = pictures[0].figure.axes[0]
    assert len(pictures) == 2 and len(axes.lines) == 3
    assert axes.lines[0].get_ydata()[0] == pytest.approx(80)
    assert set(axes.lines[2].get_xdata()) == {0.5}
    assert axes.get_xlim() == (0, 0.8)


def test_the_caption_says_how_the_draws_were_made():
    run = of_rows(row("a", 0, 0.8, norm="linf", eps=2 / 255, l2_radius=0.4347))
    section = built(certified_curves(run))
    assert isinstance(section.blocks[0], Pictures)
    said = captions(section)
    assert "sigma 0.25, n0 100, n 10,000, alpha 0.001" in said
    assert "l2 0.4347, which holds the linf ball of eps 2/255" in said
    assert len(list(pictures_of([section]))) == 1
