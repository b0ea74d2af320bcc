"""The report of an evaluation: its sections, what they leave out, and their laws."""

import re
import shutil

import numpy as np
import pytest

from jaxrobust.report import numbers, write_report
from jaxrobust.report.page import Fold, Table, pictures_of
from jaxrobust.report.radius_curve import mean_curve
from jaxrobust.report.run import Run, read_run
from jaxrobust.report.sections.accuracy import accuracy_dots
from jaxrobust.report.sections.examples import amplify, fooled_examples, pick
from jaxrobust.report.sections.per_class import class_accuracies, lines_of
from jaxrobust.report.sections.results import results
from jaxrobust.report.sections.robustness import farthest, radius_curves
from jaxrobust.report.sections.worst_case import worst_case

from .conftest import built, captions, edit
from .evaluation_run import COMPONENTS, EPS, NETWORKS, SUITE, make_evaluation
from .write_report_test import titles

NEW = {
    "Worst case of the suite",
    "Accuracy against the radius",
    "Classes",
    "Images that fool",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_evaluation(tmp_path_factory.mktemp("evaluation"))


def of_rows(*runs, **others) -> Run:
    return Run({}, {"runs": list(runs), **others}, {}, {}, ())


def test_both_pages_show_every_section(workdir):
    html = write_report(workdir).read_text()
    assert titles(html) >= NEW | {"Results", "Checks"}
    text = (workdir / "report.md").read_text()
    assert all(f"## {title}" in text for title in NEW)
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert links and all((workdir / link).is_file() for link in links)
    for words in (html, text):
        assert "inner check" not in words and "not for the page" not in words
        assert "{" not in words.split("<body>")[-1]  # no nested value as Python has it


def test_same_evaluation_gives_same_bytes(workdir):
    first = write_report(workdir).read_bytes()
    assert write_report(workdir).read_bytes() == first


@pytest.mark.parametrize(
    "key, title",
    [
        ("eps_curve", "Accuracy against the radius"),
        ("by_attack", "Worst case of the suite"),
        ("per_class", "Classes"),
        ("folder", "Images that fool"),
    ],
)
def test_a_section_goes_with_its_data(workdir, key, title):
    def strip(table):
        for row in table["runs"] + table["rows"]:
            row.pop(key)
            row.pop("minimum_eps", None)

    edit(workdir / "results.json", strip)
    assert NEW - titles(write_report(workdir).read_text()) == {title}


def test_without_saved_images_no_examples(workdir):
    shutil.rmtree(workdir / "evaluation")
    assert fooled_examples(read_run(workdir)) is None


def test_images_outside_the_run_directory_are_not_read(workdir):
    shutil.move(workdir / "evaluation" / "seed0", workdir.parent / "seed0")
    row = read_run(workdir).runs[0]
    row["folder"] = f"../../{row['folder']}"
    assert read_run(workdir).adversarial(row) == {}


@pytest.mark.parametrize(
    "name, header",
    [
        (SUITE, "AutoAttack"),
        ("lite suite, not AutoAttack (apgd-ce, apgd-t)", "lite suite"),
        ("torchattacks' AutoAttack, not the standard one (x)", None),
        ("custom suite, not AutoAttack (square)", "custom suite"),
    ],
)
def test_only_autoattack_is_called_so(name, header):
    rows = [{"name": "x", "aa_acc": 0.4, "suite_name": name}]
    header = header or "torchattacks' AutoAttack"
    section = built(results(of_rows(rows=rows)))
    table = section.blocks[0]
    assert isinstance(table, Table)
    assert table.header == ("Objective / data", f"{header} (%)")
    assert name in table.note


def test_rows_without_a_suite_keep_their_header():
    assert numbers.label("aa_acc", [{"aa_acc": 0.4}]) == "AutoAttack"
    two = [{"suite_name": "a suite"}, {"suite_name": "b suite"}]
    assert numbers.label("aa_acc", two) == "Suite of attacks"


def test_nested_values_are_no_quantities(run):
    keys = set(numbers.quantities(run.rows))
    nested = {k for k, v in run.runs[0].items() if isinstance(v, dict | list | str)}
    assert len(nested) > 6 and not keys & nested
    assert numbers.cell({"a": {"b": 1}}, "a").text == "–"


def test_radius_is_written_as_the_field_does():
    assert numbers.radius(8 / 255, "linf") == "8/255"
    assert numbers.radius(np.float32(4 / 255).item(), "linf") == "4/255"
    assert numbers.radius(0.15, "linf") == "0.15"
    assert numbers.radius(128 / 255, "l2") == "0.502"
    assert numbers.radius(1.0, "linf") == "1"
    assert numbers.cell({"eps": EPS, "norm": "linf"}, "eps").text == "8/255"


def test_worst_case_has_a_column_for_each_attack_in_order(run):
    section = built(worst_case(run))
    table, fold = section.blocks
    assert isinstance(table, Table) and isinstance(fold, Fold)
    costs = fold.blocks[0]
    assert isinstance(costs, Table)
    assert table.header == ("Network", "Clean", *COMPONENTS, "95% interval")
    assert [row[0].text for row in table.rows] == list(NETWORKS)
    last = run.runs[2]
    shown = [numbers.percent(last["by_attack"][name]) for name in COMPONENTS]
    assert [cell.text for cell in table.rows[2][2:-1]] == shown
    low, high = (numbers.percent(end) for end in last["interval"])
    assert table.rows[2][-1].text == f"{low} to {high}"
    assert "1,234,567" in {cell.text for row in costs.rows for cell in row}


def test_curve_is_the_mean_over_seeds_and_starts_clean():
    rows = [
        {"clean_acc": 1.0, "eps_curve": [[0.1, 0.6], [0.2, 0.4], [0.3, 0.1]]},
        {"clean_acc": 0.8, "eps_curve": [[0.1, 0.4], [0.2, 0.2]]},
    ]
    expected = {0.0: 0.9, 0.1: 0.5, 0.2: 0.3}
    assert mean_curve(rows, "eps_curve", "clean_acc") == pytest.approx(expected)
    assert mean_curve([{"clean_acc": 1.0}], "eps_curve", "clean_acc") == {}


def test_unbounded_radius_is_words_and_not_a_squeezed_axis(run):
    assert farthest({"a": {0.0: 1.0, 0.1: 0.5, 0.2: 0.4, 1.0: 0.0}}) == 1.0
    assert farthest({"a": {0.0: 1.0, 0.3: 0.5, 0.6: 0.4, 1.0: 0.0}}) is None
    section = built(radius_curves(run))
    assert "at eps 1: 0.0%." in captions(section)
    axes = next(iter(pictures_of([section]))).figure.axes[0]
    assert axes.get_xlim()[1] < 20 and axes.get_ylim() == (0, 100)
    names = {text.get_text() for text in axes.texts}
    assert names == {"eps 8/255"}


def test_differing_accuracies_without_bounds_name_their_network():
    curve = [[0.1, 0.5], [0.2, 0.4]]
    runs = [{"name": n, "eps_curve": [*curve, [1.0, a]]} for n, a in (("a", 0.0),)]
    runs.append({"name": "b", "eps_curve": [*curve, [1.0, 0.3]]})
    section = built(radius_curves(of_rows(*runs)))
    assert "a 0.0%, b 30.0%" in captions(section)


@pytest.mark.parametrize("count", [1, 12])
def test_every_network_has_its_own_line(tmp_path, count):
    names = tuple(f"method_{i}" for i in range(count))
    run = read_run(make_evaluation(tmp_path / "run", names))
    section = built(radius_curves(run))
    pictures = list(pictures_of([section]))
    drawn = pictures[0].figure.axes[0].lines
    lines = [line for line in drawn if np.size(line.get_xdata()) > 2]
    looks = {(line.get_color(), str(line.get_linestyle())) for line in lines}
    assert len(lines) == len(looks) == count
    assert len(pictures) == (1 if count == 1 else 2)


def test_classes_are_sorted_and_many_are_cut():
    few = {"a": [0.9, 0.5, 9], "b": [0.9, 0.1, 9], "c": [0.8, 0.1, 9]}
    assert lines_of(few) == ["c", "b", "a"]
    many = {str(i): [0.9, i / 100, 9] for i in range(30)}
    kept = [str(i) for i in range(30) if i < 10 or i >= 20]
    assert lines_of(many) == [*kept[:10], "", *kept[10:]]
    section = built(class_accuracies(of_rows({"name": "x", "per_class": many})))
    axes = next(iter(pictures_of([section]))).figure.axes[0]
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks[10] == "… 10 more" and len(ticks) == 21


def test_at_most_four_networks_show_their_classes(tmp_path):
    names = tuple(f"m{i}" for i in range(6))
    section = built(
        class_accuracies(read_run(make_evaluation(tmp_path / "run", names)))
    )
    assert len(list(pictures_of([section]))) == 4
    assert "The first 4 of 6 networks." in captions(section)


def test_examples_are_fooled_images_of_every_attack(run):
    data = run.adversarial(run.runs[0])
    picked = pick(data)
    assert len(picked) == len(set(picked)) == 8
    assert (data["clean"] & ~data["robust"])[picked].all()
    assert set(data["fooled_by"][picked]) == {0, 1, 3}
    none = {**data, "robust": np.ones_like(data["robust"])}
    assert len(pick(none)) == 0


def test_examples_show_the_most_robust_network(run):
    section = built(fooled_examples(run))
    assert NETWORKS[2] in captions(section)
    assert "× 15.9" in captions(section) and "eps 8/255" in captions(section)
    texts = [t.get_text() for p in pictures_of([section]) for t in p.figure.texts]
    assert "bird\n→ cat\napgd-ce" in texts
    assert any(text.endswith("square") for text in texts)
    assert all(picture.photo for picture in pictures_of([section]))


def test_short_names_share_a_line(tmp_path):
    digits = [str(i) for i in range(10)]
    run = read_run(make_evaluation(tmp_path / "run", NETWORKS[:1], classes=digits))
    section = built(fooled_examples(run))
    texts = [t.get_text() for p in pictures_of([section]) for t in p.figure.texts]
    assert "2 → 3\napgd-ce" in texts


def test_eps_becomes_full_contrast():
    delta = np.array([-EPS, 0.0, EPS], np.float32).reshape(1, 1, 3, 1)
    shown, factor = amplify(delta, {"norm": "linf", "eps": EPS})
    assert shown.ravel().tolist() == [0, 128, 255]
    assert factor == pytest.approx(0.5 / EPS)
    assert amplify(delta / 2, {"norm": "l2", "eps": 0.5})[1] == pytest.approx(1 / EPS)
    assert amplify(0 * delta, {"norm": "l2"})[0].ravel().tolist() == [128] * 3


def test_one_seed_needs_no_plot_by_seed(tmp_path, run):
    assert accuracy_dots(run) is None
    several = read_run(make_evaluation(tmp_path / "run", NETWORKS[:1], (0, 1)))
    assert accuracy_dots(several) is not None


def test_names_cannot_inject_markup(tmp_path):
    bad = "<script>alert(1)</script> / $x_{$ | b"
    make_evaluation(tmp_path / "run", (bad, "ok"), classes=(bad, "a", "b", "c"))
    html = write_report(tmp_path / "run").read_text()
    assert "<script" not in html
    assert "<script" not in (tmp_path / "run" / "report.md").read_text()
