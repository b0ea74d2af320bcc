"""The whole report: what it shows, what it leaves out, and that it stands alone."""

import json
import re
import shutil

import pytest

from jaxrobust.errors import UserError
from jaxrobust.report import write_report

from .conftest import NAMES, edit, make_run

PAGES = {".html", ".md", ".png"}
TITLES = {
    "Results",
    "Accuracy by seed",
    "Training curves",
    "Scores of the images",
    "Images that went and came",
    "Generated images kept",
    "Time",
    "Checks",
    "Provenance",
    "Run it again, cite it",
    "Configuration",
}


def titles(html: str) -> set[str]:
    return set(re.findall(r"<h2>(.*?)</h2>", html))


def test_shows_every_row_and_every_section(reported):
    html = (reported / "report.html").read_text()
    assert titles(html) == TITLES
    for name in NAMES:
        assert f">{name}" in html
    for text in ("Hybrid reconstruction on digits", "by 3.1 points", "4f1c4f1c"):
        assert text in html


def test_html_stands_alone(reported):
    html = (reported / "report.html").read_text()
    sources = re.findall(r'(?:src|href|srcset)="(.{0,30})', html)
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)
    assert not re.search(r"url\(|@import|<script|<link|<iframe", html)
    assert str(reported) not in html and "figures/" not in html


def test_markdown_links_exist(reported):
    text = (reported / "report.md").read_text()
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) > 8 and len(set(links)) == len(links)
    assert all((reported / link).is_file() for link in links)
    written = {f"figures/{p.name}" for p in (reported / "figures").iterdir()}
    assert written == set(links)


def test_same_directory_gives_same_bytes(workdir, reported):
    write_report(workdir)
    for path in (reported / "figures", reported):
        for file in (f for f in path.iterdir() if f.suffix in PAGES):
            other = workdir / file.relative_to(reported)
            assert other.read_bytes() == file.read_bytes(), file.name


def test_leaves_out_what_was_not_measured(workdir):
    for name in ("metrics.jsonl", "card.json"):
        (workdir / name).unlink()
    shutil.rmtree(workdir / "selections")
    html = write_report(workdir).read_text()
    assert titles(html) == {"Results", "Accuracy by seed", "Time", "Configuration"}


def test_bare_run_gives_a_page(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "results.json").write_text('{"title": "Nothing yet", "rows": []}')
    html = write_report(tmp_path).read_text()
    assert "Nothing yet" in html and titles(html) == set()


def test_other_tasks_bring_their_own_quantities(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    row = {"name": "gaussian", "certified_acc": 0.5, "radius": 0.25, "ipc": None}
    (tmp_path / "results.json").write_text(json.dumps({"rows": [row]}))
    html = write_report(tmp_path).read_text()
    for text in ("Certified (%)", ">50.0<", "Radius", ">0.25<"):
        assert text in html
    assert "Ipc" not in html


def test_manifest_without_rounds_or_generated_images(workdir):
    def strip(info):
        for key in set(info) - {"seed", "method", "meaning"}:
            del info[key]

    for path in (workdir / "selections").glob("*.json"):
        edit(path, strip)
    html = write_report(workdir).read_text()
    assert titles(html) == TITLES - {"Generated images kept"}


@pytest.mark.parametrize("page", ["report.html", "report.md"])
def test_names_cannot_inject_markup(tmp_path, page):
    bad = "<script>alert(1)</script> / $x_{$ | b"
    make_run(tmp_path, names=(bad, "pgd_at / hybrid"), seeds=(0, 1), rounds=1)
    edit(tmp_path / "results.json", lambda r: r.update(title=bad, answer=bad))
    write_report(tmp_path)
    text = (tmp_path / page).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_failed_check_comes_before_the_table(workdir, reported):
    def fail(card):
        card["checks"][1]["ok"] = False

    assert 'class="alert"' not in (reported / "report.html").read_text()
    edit(workdir / "card.json", fail)
    html = write_report(workdir).read_text()
    alarm = html.index("Check failed: no gradient masking")
    assert 'class="alert"' in html
    assert alarm < html.index('class="question"') < html.index("<table")
    assert "1 of 2 checks passed." in html
    text = (workdir / "report.md").read_text()
    assert text.index("Check failed") < text.index("| ---")


def test_networks_that_fail_a_check_alike_share_a_box(workdir):
    def fail(card):
        for seed in range(3):
            name = f"pgd_at / hybrid, seed {seed}: enough images"
            one = {"name": name, "ok": False, "value": f"{seed}9%", "note": "too few"}
            card["checks"].append(one)

    edit(workdir / "card.json", fail)
    html = write_report(workdir).read_text()
    assert html.count('class="alert"') == 1
    assert "Check failed: enough images, 3 times (too few)" in html
    assert all(
        f"hybrid, seed {seed}" in html and f"{seed}9%" in html for seed in (0, 1, 2)
    )


def test_missing_or_damaged_files_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match="config.json"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "results.json").write_text('{"rows": [')
    with pytest.raises(UserError, match="results.json is not valid JSON"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
