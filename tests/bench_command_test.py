"""The benchmark's one command: rows, goals and files. What it measures is no test."""

import json

import pytest

from tests.bench import __main__ as bench
from tests.bench.found import Found
from tests.bench.plan import CPU, GPU, Row

SMALL = ("--rehearse", "--cpu_devices", "0", "--rows", "nfgsm:tiny", "--peers", "")


def found(**changes) -> Found:
    given = {"row": "nfgsm:tiny", "what": "step of 4", "images": 4, "seconds": 0.5}
    given |= {"floor": 0.25, "rate": 1e9, "ratios": {}, "goals": {}, "held": ""}
    return Found(**given | changes)


def test_a_row_is_timed_written_and_not_timed_again(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert bench.main([*SMALL, "--out", str(out)]) == 0
    table = capsys.readouterr().out
    written = json.loads(out.read_text())
    (row,) = written["rows"]
    assert row["row"] == "nfgsm:tiny" and row["seconds"] > 0 and row["floor"] > 0
    assert written["facts"]["before"]["versions"]["jax"]
    assert "| nfgsm:tiny | step of 4 |" in table
    out.write_text(json.dumps({"rows": [row | {"seconds": 1234.0}]}))
    assert bench.main([*SMALL, "--out", str(out), "--resume"]) == 0
    assert "| 1.23e+03 |" in capsys.readouterr().out


def test_a_missed_goal_is_named_with_its_row():
    slow = found(ratios={"usual": [0.9, 1.1, 0.8]}, goals={"usual": 1.0})
    assert slow.missed() == ["nfgsm:tiny against usual: 0.90 of 1.00"]
    assert "usual 0.90 [0.85, 1.00] (missed: 1.00)" in slow.line()
    fast = found(ratios={"usual": [1.0, 1.1, 0.8]}, goals={"usual": 1.0})
    assert fast.missed() == []


def test_goals_are_lower_only_on_batchnorm_against_what_wastes_nothing():
    row = Row("pgd_at", "resnet20", ("channels_last", "usual"), goal=0.65)
    assert row.goal_against("channels_last") == 0.65
    assert row.goal_against("usual") == 1.0
    low = {row.net for row in CPU.rows if row.goal < 1}
    assert low == {"resnet18", "resnet20", "wrn28_2"}
    assert all(row.goal == 1 for row in GPU.rows)


def test_a_row_that_fails_is_named_and_takes_no_other_with_it(monkeypatch, capsys):
    from tests.bench import kinds

    def breaks(row, plan):
        raise RuntimeError("no memory")

    given = {"trades": breaks, "nfgsm": lambda row, plan: found()}
    monkeypatch.setattr(kinds, "KINDS", given)
    rows = "trades:tiny,nfgsm:tiny"
    assert bench.main(["--rehearse", "--cpu_devices", "0", "--rows", rows]) == 1
    out = capsys.readouterr().out
    assert "missed: trades:tiny: RuntimeError 'no memory'" in out
    assert "| nfgsm:tiny | step of 4 | 8 | 0.5 | 0.25 | 50% |" in out


def test_unknown_rows_are_refused():
    with pytest.raises(SystemExit, match=r"unknown rows \['pgd:tiny'\]"):
        bench.main(["--rehearse", "--cpu_devices", "0", "--rows", "pgd:tiny"])
