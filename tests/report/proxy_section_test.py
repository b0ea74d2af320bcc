"""The section on generated images shows what proxy.json holds, and only where it is."""

import pytest

from jaxrobust.errors import UserError
from jaxrobust.files import write_json
from jaxrobust.report import write_report
from jaxrobust.report.page import Table, Text, pictures_of
from jaxrobust.report.run import read_run
from jaxrobust.report.sections.proxy_distance import proxy_distance

from .conftest import built, captions, edit, make_run
from .write_report_test import titles

TITLE = "Generated images against real ones"
CLASSES = [f"digit {k}" for k in range(10)]


def space(name, norm, scale, exact=True):
    per_class = {c: scale * (1 + 0.05 * k) for k, c in enumerate(CLASSES)}
    return {
        "space": name,
        "norm": norm,
        "exact": exact,
        "lower": scale * 1.2,
        "cwd": scale * 1.225,
        "per_class": per_class,
        "floor": scale * 0.9,
        "floor_per_class": {c: 0.8 * v for c, v in per_class.items()},
        "images_per_class": dict.fromkeys(CLASSES, 40),
    }


def transfer(name, original, generated, bound):
    rows = []
    for p in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixture = p * original + (1 - p) * generated
        row = {"network": name, "original_share": p, "rob_original": original}
        row |= {"rob_mixture": mixture, "difference": abs(mixture - original)}
        rows.append(row | {"bound": (1 - p) * bound, "holds": True})
    return rows


def contents(networks=("pgd_at / hybrid", "trades / original")):
    rows, table = [], []
    for i, name in enumerate(networks):
        rob = 0.16 + 0.01 * i, 0.11 + 0.02 * i
        rows.append(
            {
                "network": name,
                "clean_acc_original": 0.97,
                "clean_acc_generated": 0.93,
                "rob_original": rob[0],
                "rob_generated": rob[1],
                "not_found_original": 2 * i,
                "not_found_generated": i,
            }
        )
        table += transfer(name, *rob, 0.245)
    return {
        "norm": "linf",
        "images": {"original": 1257, "generated": 4000, "compared": 400},
        "label_shift": 0.031,
        "spaces": [
            space("pixels", "linf", 0.2),
            *(space(n, "l2", 3.1) for n in networks),
        ],
        "frechet": [
            {"network": n, "frechet": 1.234, "floor": None if i else 0.321}
            for i, n in enumerate(networks)
        ],
        "networks": rows,
        "transfer": table,
        "arc": {
            "norm": "linf",
            "points": [[0.0, 0.98], [0.1, 0.71], [0.2, 0.52]],
            "area": 0.0455,
        },
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("run"), seeds=(0,), rounds=0)
    write_json(folder / "proxy.json", contents())
    return folder


def section(workdir):
    return built(proxy_distance(read_run(workdir)))


def words(found):
    return captions(found) + " ".join(getattr(b, "note", "") for b in found.blocks)


def test_the_page_has_it_only_where_the_file_is(workdir):
    assert TITLE in titles(write_report(workdir).read_text())
    assert (workdir / "figures" / "proxy-theorem.png").is_file()
    (workdir / "proxy.json").unlink()
    assert proxy_distance(read_run(workdir)) is None


def test_same_contents_give_same_bytes(workdir):
    first = write_report(workdir).read_bytes()
    assert write_report(workdir).read_bytes() == first


def test_tables_hold_the_numbers(workdir):
    found = section(workdir)
    networks, spaces = [b for b in found.blocks if isinstance(b, Table)]
    cells = [[cell.text for cell in row] for row in networks.rows]
    assert cells[0] == [
        "pgd_at / hybrid",
        "97.0",
        "93.0",
        "0.16",
        "0.11",
        "0.05",
        "0.245",
    ]
    cells = [[cell.text for cell in row] for row in spaces.rows]
    assert cells[0] == ["pixels", "linf", "0.245", "0.18", "–", "–"]
    assert cells[1][-2:] == ["1.234", "0.321"] and cells[2][-2:] == ["1.234", "–"]
    assert "3 distances not found" in words(found) and "3.1%" in words(found)
    text = [b.text for b in found.blocks if isinstance(b, Text)]
    assert "0.0455" in text[0] and "98.0%" in text[0] and "52.0%" in text[0]


def axes_of(found, name):
    (picture,) = [p for p in pictures_of([found]) if p.name == name]
    return picture.figure.axes[0]


def test_the_bound_lies_over_every_difference(workdir):
    axes = axes_of(section(workdir), "proxy-theorem")
    bound, *differences = [line.get_ydata() for line in axes.lines]
    assert len(differences) == 2
    assert all((bound[:-1] > line[:-1]).all() for line in differences)
    assert axes.get_yscale() == "linear"


def test_a_loose_bound_is_drawn_on_a_log_scale_without_zeros(workdir):
    def loosen(value):
        for row in value["transfer"]:
            row["bound"] *= 100

    edit(workdir / "proxy.json", loosen)
    axes = axes_of(section(workdir), "proxy-theorem")
    assert axes.get_yscale() == "log"
    assert all((line.get_ydata() > 0).all() for line in axes.lines)


def test_classes_are_drawn_farthest_first(workdir):
    axes = axes_of(section(workdir), "proxy-0-pixels")
    assert axes.get_yticklabels()[0].get_text() == "digit 9"
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths, reverse=True) and len(axes.lines) == 10


def test_what_is_missing_or_does_not_hold_is_said(workdir):
    def change(value):
        del value["arc"], value["networks"]
        value["spaces"][0]["exact"] = False
        value["transfer"][0]["holds"] = False
        value["label_shift"] = 0.0

    assert "Above the bound" not in words(section(workdir))
    assert "Not exact" not in words(section(workdir))
    edit(workdir / "proxy.json", change)
    found = section(workdir)
    assert "Above the bound for pgd_at / hybrid:" in words(found)
    assert "Not exact everywhere" in words(found) and "Labels" not in words(found)
    assert not [b for b in found.blocks if isinstance(b, Text)]


def test_no_network_leaves_only_distances(workdir):
    edit(workdir / "proxy.json", lambda value: value.update(contents(())))
    found = section(workdir)
    assert [p.name for p in pictures_of([found])] == ["proxy-0-pixels"]


def test_a_torn_file_is_named(workdir):
    (workdir / "proxy.json").write_text('{"spaces": [')
    with pytest.raises(UserError, match="proxy.json"):
        proxy_distance(read_run(workdir))
