"""Certification as a user runs it: its table, its files, and what a kill leaves."""

import csv
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from jaxrobust.errors import UserError
from jaxrobust.evaluators import certificate
from jaxrobust.evaluators.certificate import Certificates
from jaxrobust.tasks.certificates import COLUMNS, CertificateFile
from tests import runs
from tests.runs import assert_not_redone, assert_one_line_mistake, run

RECIPE = "smoothing"
NETWORK = "pgd_at / hybrid"
TSV = Path("certificates/seed0/pgd_at-hybrid.tsv")
COHEN = ["idx", "label", "predict", "radius", "correct", "time"]


def existing(smoke):
    return (f"--config.checkpoint={smoke}", f"--config.networks=('{NETWORK}',)")


def options(smoke, *more):
    return (f"--config=configs/{RECIPE}.py:smoke", *existing(smoke), *more)


@pytest.fixture(scope="module")
def certified(finished, smoke):
    return finished(RECIPE, *existing(smoke))


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file, delimiter="\t"))


def timeless(path):
    """The lines without the clock, which no two runs share."""
    return [{k: v for k, v in row.items() if k != "time"} for row in read(path)]


def test_the_file_has_cohens_columns_and_the_counts_behind_them(certified):
    rows = read(certified / TSV)
    assert list(rows[0])[:6] == COHEN
    assert [int(row["idx"]) for row in rows] == list(range(0, 50, 5))
    for row in rows:
        n0, n_a, label = (int(row[key]) for key in ("n0", "nA", "label"))
        assert 0 <= n0 <= 10 and 0 <= n_a <= 40
        assert int(row["correct"]) == (int(row["predict"]) == label)
        lower = certificate.clopper_pearson_lower(np.array([n_a]), 40, 0.001)
        assert (int(row["predict"]) == -1) == (lower[0] < 0.5)
        if lower[0] >= 0.5:
            assert row["predict"] == row["top"]
            assert float(row["radius"]) == 0.25 * norm.ppf(lower[0])


def test_the_row_follows_from_the_file(certified):
    (row,) = runs.results(certified)["runs"]
    rows = read(certified / TSV)
    radius = np.array([float(r["radius"]) for r in rows])
    right = np.array([int(r["correct"]) for r in rows], bool)
    assert row["name"] == NETWORK and row["seed"] == 0 and row["images"] == 10
    assert row["radius"] == pytest.approx(np.mean(radius * right))
    assert row["abstained"] == np.mean([r["predict"] == "-1" for r in rows])
    assert row["smoothed_acc"] == right.mean()
    assert row["l2_radius"] == 0.5 and row["certified_acc"] == 0.0
    for r, accuracy in row["certified_at"] + row["certified_curve"]:
        assert accuracy == np.mean(right & (radius >= r))
    assert row["sure_certified_acc"] <= row["certified_acc"] <= row["smoothed_acc"]


def test_the_card_and_the_report_speak_of_certificates(certified):
    checks = runs.card(certified)["checks"]
    held = {check["name"].split(": ")[1]: check["ok"] for check in checks}
    assert held["certificates repeat bit for bit"]
    assert held["no radius beyond what n draws can prove"]
    assert not held["the threat is within reach of the certificate"]
    assert "Certified accuracy" in (certified / "report.html").read_text()


def test_a_repeated_command_certifies_nothing_again(certified, smoke, tmp_path):
    workdir = assert_not_redone(certified, tmp_path, *options(smoke))
    assert (workdir / TSV).read_bytes() == (certified / TSV).read_bytes()


@pytest.mark.parametrize("kept", (0, 1, 3, 7))
def test_lost_and_torn_lines_come_back_bit_for_bit(kept, certified, smoke, tmp_path):
    workdir = runs.copied(certified, tmp_path)
    (workdir / "results.json").unlink()
    lines = (workdir / TSV).read_text().splitlines(keepends=True)
    torn = "".join(lines[: kept + 1]) + lines[kept + 1][:9]
    (workdir / TSV).write_text(torn)
    run(workdir, *options(smoke))
    assert timeless(workdir / TSV) == timeless(certified / TSV)
    assert read(workdir / TSV)[:kept] == read(certified / TSV)[:kept]
    whole, again = (runs.results(path)["runs"][0] for path in (certified, workdir))
    for row in (whole, again):
        del row["certify_seconds"]
    assert again == whole


def test_kill_nine_changes_no_certificate(smoke, tmp_path):
    more = ("--config.certify.every=1", "--config.certify.n=4000")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, *options(smoke, *more))
    process = runs.start(*options(smoke, *more), f"--workdir={cut}")
    started = lambda: (cut / TSV).exists() and len(read(cut / TSV)) > 0
    while process.poll() is None and not started():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert runs.wait(process).status == -signal.SIGKILL
    assert 0 < len(read(cut / TSV)) < 50
    run(cut, *options(smoke, *more))
    assert timeless(cut / TSV) == timeless(whole / TSV)


@pytest.mark.parametrize(
    "option,message",
    (
        ("--config.certify.n=9", "at least n = 10"),
        ("--config.certify.n=10", "at least n = 11"),
        ("--config.certify.sigma=0.0", "sigma must be above 0"),
        ("--config.certify.alpha=1.0", "alpha must be between"),
        ("--config.certify.group_images=0", "group_images must be at least 1"),
        ("--config.networks=('pgd_at / hybird',)", "choose from"),
        ("--config.checkpoint=nowhere", "no config.json in nowhere"),
    ),
)
def test_a_mistake_is_one_line_and_writes_nothing(option, message, smoke, tmp_path):
    assert_one_line_mistake(tmp_path / "run", options(smoke, option), message)


def some(count):
    draw = np.random.default_rng(0)
    whole = draw.integers(0, 9, (4, count))
    radius = draw.uniform(0, 1, count) / 3
    top, n0, n_a, vote = whole
    return Certificates(top, radius, top, n0, n_a, vote)


def test_radii_read_back_bit_for_bit_and_by_image(tmp_path):
    file, found = CertificateFile(tmp_path / "a" / "b.tsv"), some(6)
    index, label = np.array([5, 3, 1, 0, 2, 4]), np.zeros(6, int)
    file.append(index, label, found, 0.1)
    table = file.read()
    assert table.idx.tolist() == list(range(6))
    order = np.argsort(index)
    np.testing.assert_array_equal(table.radius, found.radius[order])
    np.testing.assert_array_equal(table.correct, (found.predict == 0)[order])
    assert file.done(np.array([4, 9])).tolist() == [True, False]


def test_a_torn_last_line_is_dropped_on_opening(tmp_path):
    path = tmp_path / "b.tsv"
    CertificateFile(path).append(np.arange(3), np.zeros(3, int), some(3), 0.1)
    path.write_text(path.read_text()[:-4])
    assert CertificateFile(path).read().idx.tolist() == [0, 1]
    assert path.read_text().endswith("\n")


@pytest.mark.parametrize("text", ("a\tb\n", "\t".join(COLUMNS) + "\n1\t2\n"))
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "b.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match="other columns|damaged"):
        CertificateFile(path).read()
