"""How the sections of every report show the many rows of a comparison."""

import pytest

from jaxrobust.report import numbers, write_report
from jaxrobust.report.comparison import takes_all
from jaxrobust.report.in_batch import reference_row
from jaxrobust.report.page import Fold, Pictures, Table
from jaxrobust.report.run import read_run
from jaxrobust.report.sections.accuracy import accuracy_dots
from jaxrobust.report.sections.budget_curves import budget_curves
from jaxrobust.report.sections.results import results
from jaxrobust.report.sections.timing import time_split

from .comparison_run import make_comparison
from .comparison_test import RULES, against_random, column, drawn, tables
from .conftest import built, captions, edit


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_comparison(tmp_path_factory.mktemp("comparison"))


def test_headline_has_one_readable_table_a_rule(run):
    shown = [b for b in built(results(run)).blocks if isinstance(b, Table)]
    assert len(shown) == 2
    for table in shown:
        assert len(table.rows) == len(run.rows) / 2
        assert table.header[0] == "Choice / budget"
        words = {"choice", "budget", "rule", "by chance", "baseline"}
        assert not words & {title.lower() for title in table.header[1:]}
        assert not any("nterval" in title for title in table.header)
        assert not any("[" in cell.text for row in table.rows for cell in row)
        assert not any(x in row[0].text for row in table.rows for x in RULES)
    assert "compute (TFLOP) 13.6" in shown[0].note and "steps 400" in shown[0].note
    assert column(shown[1], "Compute (TFLOP)")["random / 30%"] == "13.6"


def test_operations_are_printed_in_one_unit():
    counts = (2.5e9, 1.234e12, 1.23e13, 1.2345e14, 5.012e17)
    texts = ["0.0025", "1.23", "12.3", "123", "501,200"]
    assert [numbers.teraflops(count) for count in counts] == texts


def test_many_rows_are_split_by_rule_and_folded(run):
    for section in (accuracy_dots(run), time_split(run)):
        shown, fold = built(section).blocks
        assert isinstance(shown, Pictures) and isinstance(fold, Fold)
        assert len(shown.items) == 2
        for picture in shown.items:
            names = picture.figure.axes[0].get_yticklabels()
            assert len(names) == len(run.rows) / 2
    assert set(drawn(accuracy_dots(run))) == {
        f"accuracy-{key}-acc-equal-{rule}"
        for key in ("clean", "pgd", "cw")
        for rule in ("steps", "time")
    }


def test_time_adds_up_to_the_total(run):
    (table,) = tables(built(time_split(run)).blocks)
    assert "Ranking network (s)" in table.header and "Compile (s)" in table.header
    assert not any("Total" in title for title in table.header)
    for row in run.rows:
        total = float(column(table, "Sum (s)")[row["name"]])
        assert total == pytest.approx(row["total_seconds"], abs=0.06)


def test_time_is_relative_to_all_images(run):
    reference = reference_row(run.rows)
    assert reference is not None and takes_all(reference)
    (table,) = tables(built(time_split(run)).blocks)
    assert column(table, "Relative (%)")[reference["name"]] == "100.0"


def test_time_of_ranking_stays_apart_in_other_runs(workdir):
    def strip(table):
        for row in table["runs"] + table["rows"]:
            row.pop("budget")

    edit(workdir / "results.json", strip)
    (table,) = tables(built(time_split(read_run(workdir))).blocks)
    after = table.header[table.header.index("Sum (s)") :]
    assert "Rounds (s)" in after


def test_results_file_may_lack_what_is_optional(workdir):
    optional = ("flops", "cw_acc", "rounds_seconds", "by_chance", "baseline")

    def strip(table):
        for row in table["runs"] + table["rows"]:
            for key in [k for k in row if k.startswith(optional)]:
                row.pop(key)
            row.pop("pgd_acc_interval", None)

    edit(workdir / "results.json", strip)
    write_report(workdir)
    run = read_run(workdir)
    assert "else standard deviation" in captions(built(budget_curves(run)))
    for table in against_random(run).values():
        assert set(column(table, "Against random").values()) == {"–"}
