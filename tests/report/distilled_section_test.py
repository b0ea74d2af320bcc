"""The section on distilled sets shows what a run distilled, and only where it did."""

import json

import numpy as np
import pytest

from jaxrobust.files import write_npz
from jaxrobust.report import write_report
from jaxrobust.report.page import Pictures, Table, pictures_of
from jaxrobust.report.run import read_run
from jaxrobust.report.sections.distilled import distilled_sets

from .conftest import built

NAMES = ("standard / all images", "random_hard / ipc 1", "sre2l / ipc 1")


def row(name, seed):
    worst = 0.2 + 0.1 * seed
    found = {
        "name": name,
        "seed": seed,
        "clean_acc": 0.5 + 0.1 * seed,
        "worst_acc": worst,
        "worst_curve": [[0.0, 0.5 + 0.1 * seed], [0.05, worst], [0.1, worst / 2]],
        "hessian_top": 3.0 + seed,
        "set_bytes": 2048,
        "baseline": "sre2l" not in name,
    }
    if "ipc" in name:
        labels = "hard" if "hard" in name else "standard"
        found |= {"ipc": 1, "labels": labels, "images": name.partition("_")[0]}
    return found


@pytest.fixture
def workdir(tmp_path):
    """A run with one set of ten images."""
    rows = [row(name, seed) for name in NAMES for seed in (0, 1)]
    means = [{**row(name, 0), "seeds": [0, 1]} for name in NAMES]
    table = {"title": "t", "question": "q", "answer": "a", "rows": means, "runs": rows}
    for name, value in {
        "results": table,
        "config": {"threat": {"norm": "linf"}},
        "card": {},
        "distilled": {"scores": [{"arm": "sre2l", "ipc": 1, "lrs": 0.3}]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    for ipc in (1, 2):
        image = np.arange(10 * ipc * 64, dtype=np.uint8).reshape(-1, 8, 8, 1)
        label = np.repeat(np.arange(10), ipc)
        names = np.array([f"digit {k}" for k in range(10)])
        (tmp_path / "distilled").mkdir(exist_ok=True)
        path = tmp_path / "distilled" / f"sre2l-ipc{ipc}-set0.npz"
        write_npz(path, {"image": image, "label": label, "class_names": names})
    return tmp_path


def texts(table):
    return {line[0].text: [cell.text for cell in line[1:]] for line in table.rows}


def test_there_is_a_table_for_all_images_and_for_each_size(workdir):
    section = built(distilled_sets(read_run(workdir)))
    whole, one, scores = [b for b in section.blocks if isinstance(b, Table)]
    assert [table.header[0] for table in (whole, one)] == ["All images", "1 per class"]
    assert set(texts(whole)) == {"standard"}
    assert set(texts(one)) == {"random_hard", "sre2l"}
    # Means over both seeds: clean, worst at two radii, eigenvalue, KiB.
    expected = ["standard", "55.0", "25.0", "12.5", "3.5", "2"]
    assert texts(one)["sre2l"] == expected
    assert texts(scores)["sre2l"] == ["1", "–", "–", "–", "–", "0.30"]
    assert one.rows[1][2].spread == "7.1", "100 * 0.1 / sqrt(2)"


def test_the_largest_set_of_each_way_is_shown(workdir):
    section = built(distilled_sets(read_run(workdir)))
    assert any(isinstance(block, Pictures) for block in section.blocks)
    assert [p.name for p in pictures_of([section])] == ["distilled-sre2l-ipc2-set0"]
    write_report(workdir)
    assert "sre2l, ipc 2" in (workdir / "report.html").read_text()


def test_other_runs_have_no_such_section(run):
    assert distilled_sets(run) is None
