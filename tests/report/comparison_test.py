"""The report of a comparison: its two sections and what they claim."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text as MplText
from scipy import stats

from jaxrobust.report import style, write_report
from jaxrobust.report.comparison import (
    budget,
    by_rule,
    choice,
    difference,
    front,
    looks,
    move_apart,
    random_of,
)
from jaxrobust.report.page import Fold, Section, Table, pictures_of
from jaxrobust.report.run import Run, read_run
from jaxrobust.report.sections.budget_curves import budget_curves
from jaxrobust.report.sections.pareto import pareto

from .comparison_run import CHOICES, FULL, make_comparison
from .conftest import built, captions, edit
from .write_report_test import titles

CURVES, FRONT = "Accuracy against budget", "Accuracy against time"
RULES = ("equal steps", "equal time")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_comparison(tmp_path_factory.mktemp("comparison"))


def drawn(section: Section | None) -> dict:
    return {p.name: p.figure for p in pictures_of([built(section)])}


def tables(blocks) -> list[Table]:
    found = []
    for block in blocks:
        found += [block] if isinstance(block, Table) else []
        found += tables(block.blocks) if isinstance(block, Fold) else []
    return found


def column(table: Table, title: str) -> dict[str, str]:
    at = table.header.index(title)
    return {row[0].text: row[at].text for row in table.rows}


def against_random(run: Run) -> dict[str, Table]:
    return dict(zip(RULES, tables(built(pareto(run)).blocks)))


def small(tmp_path, **options) -> Run:
    choices = ("random", "el2n", "in_batch_hard")
    return read_run(make_comparison(tmp_path / "small", choices, **options))


def made(seconds, accuracies) -> list[dict]:
    return [
        {"name": str(i), "total_seconds": s, "pgd_acc": a}
        for i, (s, a) in enumerate(zip(seconds, accuracies))
    ]


def test_both_pages_show_the_sections(workdir):
    html = write_report(workdir).read_text()
    assert titles(html) >= {CURVES, FRONT, "Results", "Accuracy by seed", "Time"}
    first = (workdir / "report.html").read_bytes()
    assert write_report(workdir).read_bytes() == first
    text = (workdir / "report.md").read_text()
    assert f"## {CURVES}" in text and f"## {FRONT}" in text


def test_runs_without_budgets_have_neither(workdir):
    def strip(table):
        for row in table["runs"] + table["rows"]:
            row.pop("budget")

    edit(workdir / "results.json", strip)
    assert not {CURVES, FRONT} & titles(write_report(workdir).read_text())


def test_curves_show_percent_and_intervals_at_their_budgets(run):
    figure = drawn(budget_curves(run))["budget-pgd-acc-equal-time"]
    axes = figure.axes[0]
    containers = dict(zip(CHOICES, axes.containers))
    for name, container in containers.items():
        rows = [r for r in by_rule(run.rows)["equal time"] if choice(r) == name]
        line, _, (bars,) = container.lines
        x, y = np.asarray(line.get_data(), float)
        np.testing.assert_allclose(x, [30, 50], atol=2)
        np.testing.assert_allclose(y, [100 * row["pgd_acc"] for row in rows])
        ends = [[end for _, end in segment] for segment in bars.get_segments()]
        wanted = [[100 * end for end in row["pgd_acc_interval"]] for row in rows]
        np.testing.assert_allclose(ends, wanted)


def test_references_are_grey_and_full_is_dashed_across(run):
    for figure in drawn(budget_curves(run)).values():
        axes = figure.axes[0]
        for name, container in zip(CHOICES, axes.containers):
            color = to_hex(container.lines[0].get_color()).upper()
            assert (color == style.GRAY) == name.startswith("random")
        across = [line for line in axes.lines if line.get_linestyle() == "--"]
        across = [line for line in across if list(line.get_xdata()) == [0, 1]]
        assert len(across) == 1
        assert to_hex(across[0].get_color()).upper() == style.GRAY


def test_every_line_is_named_and_no_name_covers_another(run):
    for figure in drawn(budget_curves(run)).values():
        texts = figure.axes[0].texts
        assert {text.get_text() for text in texts} == {*CHOICES, FULL}
        figure.draw_without_rendering()
        found = (MplText.get_window_extent(t) for t in texts)  # without its line
        boxes = sorted(found, key=lambda box: box.y0)
        for low, high in zip(boxes, boxes[1:]):
            assert low.y1 <= high.y0 + 0.25 * low.height  # the air over small letters
        width, _ = figure.canvas.get_width_height()
        assert max(box.x1 for box in boxes) <= width


def test_no_two_choices_look_alike():
    rows = [{"choice": f"c{i}", "budget": 0.3} for i in range(40)]
    shapes = [(look.color, look.marker) for look in looks(rows).values()]
    assert len(set(shapes)) == 40 and style.GRAY not in {color for color, _ in shapes}


@pytest.mark.parametrize("seed", range(4))
def test_names_keep_their_order_and_their_gap(seed):
    values = np.random.default_rng(seed).uniform(0, 1, 12)
    axes = style.panel(style.canvas(style.HALF, 330), "")
    axes.set_ylim(0, 1)
    gap = 10 / (330 * axes.get_position().height)
    found = np.asarray(move_apart(axes, list(values), 10))
    assert (np.argsort(found) == np.argsort(values)).all()
    assert np.diff(np.sort(found)).min() >= gap - 1e-9
    assert found.min() >= 0 and found.max() <= 1
    apart = [0.1, 0.9, 0.5]
    assert move_apart(axes, apart, 10) == pytest.approx(apart)


def test_full_of_one_rule_stands_for_both(workdir):
    name = "full / 100% equal time"

    def drop(table):
        for key in ("rows", "runs"):
            table[key] = [row for row in table[key] if row["name"] != name]

    edit(workdir / "results.json", drop)
    run = read_run(workdir)
    section = built(budget_curves(run))
    for figure in drawn(section).values():
        assert FULL in {text.get_text() for text in figure.axes[0].texts}
    assert "not trained apart for equal time" in captions(section)
    last = against_random(run)["equal time"]
    assert "Without a network at equal time: full / 100%." in last.note


def test_budgets_over_decades_have_a_logarithmic_axis(tmp_path):
    run = small(tmp_path, budgets=(0.01, 0.1, 0.5))
    for figure in drawn(budget_curves(run)).values():
        assert figure.axes[0].get_xscale() == "log"
    run = small(tmp_path, budgets=(0.3, 0.5))
    for figure in drawn(budget_curves(run)).values():
        assert figure.axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("budgets", [(0.3,), (1.0,)])
def test_one_budget_is_enough_for_a_page(tmp_path, budgets):
    run = small(tmp_path, budgets=budgets)
    assert (budget_curves(run) is None) == (budgets == (1.0,))
    assert write_report(tmp_path / "small").exists()


@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_nothing_beats(seed):
    rng = np.random.default_rng(seed)
    rows = made(rng.integers(1, 9, 30), rng.integers(1, 9, 30) / 10)

    def beats(a, b):
        faster = a["total_seconds"] <= b["total_seconds"]
        better = a["pgd_acc"] >= b["pgd_acc"]
        same = (a["total_seconds"], a["pgd_acc"]) == (b["total_seconds"], b["pgd_acc"])
        return faster and better and not same

    free = [b for b in rows if not any(beats(a, b) for a in rows)]
    place = lambda row: (row["total_seconds"], row["pgd_acc"])
    assert [place(row) for row in front(rows, "pgd_acc")] == sorted({*map(place, free)})


def test_front_is_joined_and_named(run):
    section = built(pareto(run))
    best = front(run.rows, "pgd_acc")
    for number, row in enumerate(best, 1):
        assert f"{number} {row['name']}" in captions(section)
    axes = drawn(section)["pareto"].axes[0]
    line = next(x for x in axes.lines if x.get_drawstyle() == "steps-post")
    assert list(line.get_xdata()) == [row["total_seconds"] for row in best]
    marked = [c[0] for t in against_random(run).values() for c in t.rows if c[0].tag]
    assert len(marked) == len(best) > 1
    assert len(axes.lines) == len(run.rows) + 1


def test_caption_says_what_the_seconds_count(workdir, run):
    words = "training of the network that ranks the images"
    assert words in captions(built(pareto(run)))

    def spare(table):
        for row in table["rows"]:
            row["rounds_seconds"] = 0.0

    edit(workdir / "results.json", spare)
    assert words not in captions(built(pareto(read_run(workdir))))


def test_difference_is_that_of_the_paired_t_test(run):
    for row in run.rows:
        reference = random_of(run.rows, row)
        if reference is None or reference is row:
            continue
        ours, theirs = (
            [one["pgd_acc"] for one in run.runs_by_name[x["name"]]]
            for x in (row, reference)
        )
        test = stats.ttest_rel(ours, theirs)
        low, high = test.confidence_interval(0.95)
        found = difference(run, row, reference, "pgd_acc")
        assert found is not None and found.half is not None
        ends = (found.mean - found.half, found.mean + found.half)
        assert ends == pytest.approx((low, high))
        assert (found.verdict == "not distinguishable") == (test.pvalue >= 0.05)


def test_difference_pairs_by_seed_and_not_by_order():
    rows = [{"name": "a", "budget": 0.3}, {"name": "b", "budget": 0.3}]
    values = {"a": {2: 0.7, 0: 0.5, 1: 0.6, 9: 0.0}, "b": {0: 0.4, 1: 0.5, 2: 0.6}}
    runs = [
        {"name": name, "seed": seed, "pgd_acc": value}
        for name, seeds in values.items()
        for seed, value in seeds.items()
    ]
    found = difference(Run({}, {"runs": runs}, {}, {}, ()), *rows, "pgd_acc")
    assert found is not None and found.seeds == 3
    assert found.mean == pytest.approx(0.1) and found.half == pytest.approx(0, abs=1e-9)


def test_table_compares_within_budget_and_rule(run):
    for rule, table in against_random(run).items():
        accuracy = {n: float(t) for n, t in column(table, "PGD (%)").items()}
        gaps = column(table, "Minus random")
        verdicts = column(table, "Against random")
        assert len(table.rows) == 2 * len(CHOICES) + 1
        assert not any(rule in name for name in accuracy)
        for name, text in gaps.items():
            share = name.partition(" / ")[2]
            if share == "100%" or name.startswith("random /"):
                assert text == "–" and verdicts[name] in ("–", "the reference")
            else:
                gap = accuracy[name] - accuracy[f"random / {share}"]
                assert float(text) == pytest.approx(gap, abs=0.151)
                assert verdicts[name] in ("higher", "lower", "not distinguishable")


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_fewer_than_three_seeds_claim_nothing(tmp_path, seeds):
    run = small(tmp_path, seeds=seeds)
    for table in against_random(run).values():
        words = set(column(table, "Against random").values())
        assert words == {"too few seeds", "the reference", "–"}
    if len(seeds) == 1:
        assert "One seed a point" in captions(built(budget_curves(run)))
        cells = [c for t in against_random(run).values() for r in t.rows for c in r]
        assert not any(cell.spread for cell in cells)


def test_budgets_of_averaged_rows_are_the_same_budget():
    row = {"name": "el2n / 30%", "rule": "steps", "budget": 0.3}
    chance = {"name": "random / 30%", "rule": "steps", "by_chance": True}
    chance["budget"] = 0.1 + 0.2
    assert chance["budget"] != row["budget"] and budget(chance) == budget(row)
    assert random_of([row, chance], row) is chance
    other = {**chance, "rule": "time"}
    assert random_of([row, other], row) is None
