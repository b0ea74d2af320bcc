"""The parts of the report: reading a run, numbers, marks, scales and image tiles."""

import json

import numpy as np
import pytest

from jaxrobust.report import html_page, markdown_page, numbers
from jaxrobust.report.page import Cell, Code, Section, Table, Text, slug
from jaxrobust.report.run import Run, read_run, split_stage
from jaxrobust.report.sections.accuracy import on_scale
from jaxrobust.report.sections.results import best_row, results
from jaxrobust.report.sections.scores import crowded
from jaxrobust.report.style import enlarge


def write_metrics(workdir, lines):
    for name in ("config.json", "results.json"):
        (workdir / name).write_text("{}")
    text = "".join(
        (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
    )
    (workdir / "metrics.jsonl").write_text(text)
    return read_run(workdir).metrics


def test_repeated_step_keeps_the_last(tmp_path):
    metrics = write_metrics(
        tmp_path,
        [
            {"stage": "a", "step": 50, "loss": 2.0},
            {"stage": "a", "step": 100, "loss": 1.0},
            {"stage": "a", "step": 50, "loss": 1.5},
            {"stage": "a", "step": 50, "val_pgd_acc": 0.5},
            {"stage": "b", "step": 50, "loss": 9.0},
        ],
    )
    assert list(metrics["a"]) == [50, 100]
    assert metrics["a"][50]["loss"] == 1.5
    assert metrics["a"][50]["val_pgd_acc"] == 0.5
    assert metrics["b"][50]["loss"] == 9.0


def test_torn_lines_are_skipped(tmp_path):
    lines = ['{"stage": "a", "st', {"stage": "a", "step": 1, "loss": 1.0}, '{"x": 1}']
    assert list(write_metrics(tmp_path, lines)["a"]) == [1]


def test_stage_splits_off_its_seed():
    assert split_stage("seed12/pgd_at-hybrid") == ("seed12", "pgd_at-hybrid")
    assert split_stage("generator") == ("", "generator")
    for chunk in ("", "-chunk0003"):
        found = split_stage(f"distilled/a_b-ipc10-set2{chunk}")
        assert found == ("set2", "distilled/a_b-ipc10")


def row(acc, std=None, seeds=3):
    return {"name": "x", "seeds": [*range(seeds)], "pgd_acc": acc, "pgd_acc_std": std}


@pytest.mark.parametrize(
    "rows, best",
    [
        ([row(0.60, 0.01), row(0.65, 0.02)], 1),
        ([row(0.60, 0.01), row(0.615, 0.02)], None),  # inside the larger std
        ([row(0.60, 0.01), row(0.60, 0.01)], None),
        ([row(0.60, 0.01, 2), row(0.90, 0.01, 2)], None),  # too few seeds
        ([row(0.60), row(0.90)], None),  # no std
        ([row(0.60, 0.01), row(float("nan"), 0.01), row(0.7, 0.01)], 2),
        ([row(0.60, 0.01)], None),
    ],
)
def test_best_is_marked_only_beyond_noise(rows, best):
    assert best_row(rows, "pgd_acc") == best


def test_what_no_row_differs_in_is_a_sentence():
    rows = [row(0.5) | {"steps": 400, "ipc": i} for i in range(2)]
    section = results(Run({}, {"rows": rows}, {}, {}, ()))
    table = section.blocks[0]
    assert table.header == ("Objective / data", "PGD (%)", "Ipc")
    assert "The same in every row: steps 400." in table.note


def test_log_axis_only_for_crowded_scores():
    spread = np.linspace(0.5, 0.8, 50)
    assert not crowded(spread)
    assert crowded(0.5 + 1e-4 * spread**40 + 0.3 * (spread > 0.79))
    assert not crowded(np.array([0.1, 0.5001, 0.9]))


def test_numbers_are_printed_with_their_unit():
    assert numbers.cell(row(0.9834, 0.012), "pgd_acc") == Cell("98.3", "1.2")
    assert numbers.cell(row(0.9834, 0.012, seeds=1), "pgd_acc") == Cell("98.3")
    assert numbers.cell({}, "pgd_acc") == Cell("–")
    assert numbers.cell({"steps": 40000}, "steps") == Cell("40,000")
    assert numbers.cell({"generated_share": 0.5}, "generated_share") == Cell("50.0")
    assert numbers.quantity(0.123456) == "0.1235"
    assert numbers.quantity(float("nan")) == "nan"
    times = [numbers.duration(s) for s in (0.83, 75, 200, 7500)]
    assert times == ["0.8 s", "75 s", "3 min 20 s", "2 h 5 min"]


def test_scale_leaves_far_lower_rows_out():
    assert on_scale([[0.03], [0.66, 0.67], [0.70], [0.69]]) == {1, 2, 3}
    assert on_scale([[0.95], [0.96], [0.98]]) == {0, 1, 2}
    assert on_scale([[0.1], [0.7]]) == {0, 1}
    assert on_scale([[0.5]]) == {0}


def test_enlarge_repeats_pixels():
    image = np.array([[0, 50], [100, 150]], np.uint8)
    big = enlarge(image[..., None], 4)
    assert big.shape == (4, 4, 3)
    np.testing.assert_array_equal(big[..., 1], np.kron(image, np.ones((2, 2), int)))
    assert enlarge(np.zeros((300, 200, 3), np.uint8), 128).shape == (128, 128, 3)


def test_table_aligns_numbers_in_both_views():
    table = Table(("a", "b"), ((Cell("x|y", tag="t"), Cell("1", "2", best=True)),))
    section = [Section("S", (table, Text("hi", "answer"), Code("a\nb")))]
    text = markdown_page.render("T", section)
    assert "| --- | ---: |" in text
    assert "| x\\|y (t) | **1** ± 2 |" in text
    assert "    a\n    b" in text and "> hi" in text
    html = html_page.render("T", section, {})
    assert '<td class="n"><strong>1</strong><span class="spread">± 2</span>' in html


def test_slug_is_a_file_name():
    assert slug("Probe accuracy, FGSM/..") == "probe-accuracy-fgsm"
    assert slug("..") == "unnamed"
