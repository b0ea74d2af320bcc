"""The report of in-batch selection: its sections, and what they leave out."""

import json

import numpy as np
import pytest

from jaxrobust.report import write_report
from jaxrobust.report.in_batch import mean_series, reference_row, stage_kind
from jaxrobust.report.page import Fold, Section, Table, pictures_of
from jaxrobust.report.run import Run, read_run
from jaxrobust.report.sections.curves import training_curves
from jaxrobust.report.sections.selection_curves import selection_curves
from jaxrobust.report.sections.selection_sweep import selection_sweep, sweeps
from jaxrobust.report.sections.timing import time_split

from .conftest import built, captions, edit
from .selection_run import CHUNK, EPOCH_STEPS, METHODS, STEPS, make_selection
from .write_report_test import titles

SWEEP, CURVES = "Accuracy against the share selected", "What was selected"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_selection(tmp_path_factory.mktemp("selection"))


def pictures(section: Section) -> dict:
    return {picture.name: picture.figure for picture in pictures_of([section])}


def xy(line) -> tuple[list, list]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def key_of(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def time_table(run: Run) -> Table:
    table = built(time_split(run)).blocks[1]
    assert isinstance(table, Table)
    return table


def column(table: Table, title: str) -> dict[str, str]:
    at = table.header.index(title)
    return {row[0].text.split(" /")[0]: row[at].text for row in table.rows}


def test_both_pages_show_the_sections(workdir):
    assert titles(write_report(workdir).read_text()) >= {SWEEP, CURVES, "Time"}
    text = (workdir / "report.md").read_text()
    assert f"## {SWEEP}" in text and f"## {CURVES}" in text
    first = (workdir / "report.html").read_bytes()
    assert write_report(workdir).read_bytes() == first


def test_runs_without_selection_have_neither(workdir):
    def strip(table):
        for row in table["runs"] + table["rows"]:
            for key in ("selection", "keep", "steps_per_epoch", "relative_cost"):
                row.pop(key, None)

    edit(workdir / "results.json", strip)
    assert not {SWEEP, CURVES} & titles(write_report(workdir).read_text())
    assert not any("(%)" in name for name in time_table(read_run(workdir)).header)


def test_sweep_joins_what_differs_in_its_share_alone(run):
    found = sweeps(run)
    assert list(found) == ["union"]
    assert [row["keep"] for row in found["union"]] == [0.1, 0.3, 0.5, 0.75]
    names = [row["name"].split(" /")[0] for row in found["union"]]
    assert names == ["ds_10", "ds_30", "ds_50", "ds_75"]  # and not random_50


@pytest.mark.parametrize("shares", [(0.3, 0.5), (0.5, 0.5, 0.5)])
def test_fewer_than_three_shares_are_no_sweep(tmp_path, shares):
    methods = {f"ds_{i}": ("union", keep) for i, keep in enumerate(shares)}
    assert selection_sweep(read_run(make_selection(tmp_path, methods))) is None


def test_two_sweeps_of_one_selector_have_two_names(tmp_path):
    shares = {"20": 0.2, "50": 0.5, "90": 0.9}
    methods = {f"{n}_{k}": ("union", v) for k, v in shares.items() for n in ("ds", "x")}
    make_selection(tmp_path, methods)

    def other_order(config):
        for name, spec in config["methods"].items():
            spec["select"]["order"] = "easy" if name.startswith("x") else "hard"

    edit(tmp_path / "config.json", other_order)
    assert list(sweeps(read_run(tmp_path))) == ["union, ds", "union, x"]


def test_sweep_shows_percent_against_the_share(run):
    figures = pictures(built(selection_sweep(run)))
    assert list(figures) == ["selection-sweep-clean-acc", "selection-sweep-pgd-acc"]
    axes = figures["selection-sweep-pgd-acc"].axes[0]
    rows = sweeps(run)["union"]
    drawn = next(line for line in axes.lines if len(line.get_xdata()) == len(rows))
    shares, values = xy(drawn)
    assert shares == [0.1, 0.3, 0.5, 0.75]
    assert values == pytest.approx([100 * row["pgd_acc"] for row in rows])
    bars = axes.containers[0].lines[2][0].get_segments()
    heights = [segment[1][1] - segment[0][1] for segment in bars]
    assert heights == pytest.approx([200 * row["pgd_acc_std"] for row in rows])


def test_reference_is_a_dashed_line_unless_far_away(run):
    section = built(selection_sweep(run))
    reference = next(r for r in run.rows if r["name"] == "pgd_at / original")
    for key in ("clean_acc", "pgd_acc"):
        figure = pictures(section)[f"selection-sweep-{key.replace('_', '-')}"]
        assert key_of(figure) == ["union", "pgd_at / original"]
        dashed = [x for x in figure.axes[0].lines if x.get_linestyle() == "--"]
        heights = [xy(line)[1][0] for line in dashed]
        assert heights == pytest.approx([100 * reference[key]])
    standard = next(r for r in run.rows if r["name"] == "standard / original")
    clean, robust = (100 * standard[key] for key in ("clean_acc", "pgd_acc"))
    far = f"Off the scale: standard / original (Clean {clean:.1f}%, PGD {robust:.1f}%)."
    assert far in captions(section)


def test_epochs_are_steps_of_the_row_over_its_steps_per_epoch(run):
    axes = pictures(built(selection_curves(run)))["selection-share-0"].axes[0]
    in_effect, equation_9, *seeds = axes.lines
    epochs = np.arange(CHUNK, STEPS + 1, CHUNK) / EPOCH_STEPS
    assert xy(equation_9)[0] == epochs.tolist() and len(seeds) == 3
    assert xy(equation_9)[1][0] == 1 and xy(equation_9)[1][-1] < 0.01
    assert sorted({round(y, 6) for y in xy(in_effect)[1]}) == [0.1, 0.25, 0.5, 0.75, 1]


def test_thick_line_is_the_mean_of_the_thin_ones(run):
    axes = pictures(built(selection_curves(run)))["selection-counts-2"].axes[0]
    clean = axes.lines[:4]  # the mean, then three seeds
    means = np.mean([xy(line)[1] for line in clean[1:]], axis=0)
    assert xy(clean[0])[1] == pytest.approx(means.tolist())
    total = np.add(xy(axes.lines[0])[1], xy(axes.lines[4])[1])
    assert total == pytest.approx(128)  # ds_50: half of 2 x 128 images


def test_one_seed_is_one_line(tmp_path):
    run = read_run(make_selection(tmp_path, seeds=(0,)))
    section = built(selection_curves(run))
    assert len(pictures(section)["selection-counts-0"].axes[0].lines) == 2
    assert "each seed" not in captions(section)
    assert "One seed a point" in captions(built(selection_sweep(run)))
    cells = [cell for row in time_table(run).rows for cell in row]
    assert not any(cell.spread for cell in cells)


def test_counts_share_their_scale(run):
    figures = pictures(built(selection_curves(run)))
    counts = [f for name, f in figures.items() if "counts" in name]
    assert len(counts) == len(METHODS)
    assert len({figure.axes[0].get_ylim() for figure in counts}) == 1


def test_what_was_not_measured_is_not_drawn(workdir):
    path = workdir / "metrics.jsonl"
    points = [json.loads(line) for line in path.read_text().splitlines()]
    for point in points:
        point.pop("chosen_minimum", None)
        point.pop("p_up", None)
    path.write_text("".join(json.dumps(point) + "\n" for point in points))
    section = built(selection_curves(read_run(workdir)))
    assert all("counts" in name for name in pictures(section))
    assert "Near-minimal" not in captions(section)
    assert "P_up" not in captions(section)
    path.unlink()
    assert selection_curves(read_run(workdir)) is None


def test_at_most_four_methods_are_open(tmp_path):
    methods = {f"a{i}": ("adaptive", 1.0) for i in range(6)}
    section = built(selection_curves(read_run(make_selection(tmp_path, methods))))
    shown, fold = section.blocks
    assert isinstance(fold, Fold)
    names = [p.name for p in pictures_of([Section("", (shown,))])]
    rest = [p.name for p in pictures_of([Section("", (fold,))])]
    counts = [f"selection-counts-{i}" for i in range(6)]
    assert names == ["selection-share-0", *counts[:4]]
    assert rest == ["selection-share-1", *counts[4:]]
    figures = pictures(section)
    keys = [key_of(figures[f"selection-share-{i}"]) for i in range(2)]
    assert [name.split(" /")[0] for names in keys for name in names] == list(methods)


def test_colours_are_those_of_the_training_curves(run):
    stages = pictures(built(training_curves(run)))["curve-key"].axes[0].get_legend()
    look_of = {
        text.get_text(): line.get_color()
        for text, line in zip(stages.get_texts(), stages.get_lines())
    }
    figure = pictures(built(selection_curves(run)))["selection-minimum-0"]
    legend = figure.legends[0]
    for text, line in zip(legend.get_texts(), legend.get_lines()):
        assert line.get_color() == look_of[stage_kind(text.get_text())]


def test_training_curves_do_not_repeat_them(run):
    drawn = {f"curve-training-{name}" for name in ("accuracy", "loss")}
    drawn |= {f"curve-validation-accuracy-{name}" for name in ("clean", "pgd")}
    assert set(pictures(built(training_curves(run)))) == {"curve-key", *drawn}


def test_time_is_relative_to_what_selects_nothing(run):
    table = time_table(run)
    measured = column(table, "Relative (%)")
    sums = {n: float(text) for n, text in column(table, "Sum (s)").items()}
    shares = {name: 100 * value / sums["pgd_at"] for name, value in sums.items()}
    assert {n: float(t) for n, t in measured.items()} == pytest.approx(shares, abs=0.1)
    assert measured["pgd_at"] == "100.0" and shares["ds_50"] < 95
    counted = column(table, "Arithmetic (%)")
    assert counted["pgd_at"] == "100.0" and counted["standard"] == "–"
    assert counted["ds_50"] == f"{100 * 45 / 43:.1f}"
    assert "pgd_at / original, which learns from every image" in table.note


def test_spread_of_the_relative_time_is_that_of_paired_seeds():
    seconds = {"pgd_at": (10.0, 20.0), "ds": (5.0, 14.0)}
    runs = [
        {"name": name, "seed": seed, "attack_seconds": s, "keep": 1.0}
        for name, pair in seconds.items()
        for seed, s in enumerate(pair)
    ]
    rows = [{"name": n, "attack_seconds": sum(p) / 2} for n, p in seconds.items()]
    rows[1]["selection"] = "union"
    table = time_table(Run({}, {"rows": rows, "runs": runs}, {}, {}, ()))
    cell = table.rows[1][table.header.index("Relative (%)")]
    assert cell.text == "63.3"
    assert cell.spread == f"{np.std([50, 70], ddof=1):.1f}"
    assert "Arithmetic (%)" not in table.header


def test_reference_attacks_and_selects_nothing(run):
    reference = reference_row(run.rows)
    assert reference is not None and reference["name"] == "pgd_at / original"
    assert reference_row([r for r in run.rows if "selection" not in r]) is None
    without = [r for r in run.rows if r["name"] != "pgd_at / original"]
    assert reference_row(without) is None


def test_stage_of_a_row():
    assert stage_kind("ds / original") == "ds-original"
    assert stage_kind("ds / random 50%") == "ds-random-50"


def test_mean_is_over_the_steps_of_all_seeds():
    assert mean_series([{1: 2.0, 2: 4.0}, {2: 6.0, 3: 8.0}]) == {2: 5.0}
    assert mean_series([]) == {}
