"""Where the numbers come from, and how to get them again."""

from typing import Any

from jaxrobust.report.numbers import duration, is_number
from jaxrobust.report.page import Cell, Code, Fold, Section, Table, Text
from jaxrobust.report.run import Row, Run

_REBUILD = (
    'python -c "from jaxrobust.report import write_report; '
    "write_report('<run directory>')\""
)


def provenance(run: Run) -> Section | None:
    """Data, code, machine and time of the run, from its card."""
    rows = tuple((Cell(name), Cell(value)) for name, value in _facts(run.card) if value)
    if not rows:
        return None
    return Section("Provenance", (Table(("", ""), rows, text_columns=2),))


def run_again(run: Run) -> Section | None:
    """The command, and one sentence that names this result beyond doubt."""
    if not run.card.get("command"):
        return None
    return Section(
        "Run it again, cite it",
        (
            Text("The same workdir resumes this run, a new one repeats it:"),
            Code(str(run.card["command"])),
            Text("This page is made from the run directory alone; to make it again:"),
            Code(_REBUILD),
            Text("To cite this result, name what fixes it:"),
            Code(_citation(run.card)),
        ),
    )


def configuration(run: Run) -> Section | None:
    """Every resolved setting, as `--config.` spells it on the command line."""
    lines = [f"{key} = {value}" for key, value in _flat(run.config)]
    if not lines:
        return None
    fold = Fold(f"All {len(lines)} settings, resolved", (Code("\n".join(lines)),))
    return Section("Configuration", (fold,))


def _facts(card: Row) -> list[tuple[str, str]]:
    data = card.get("data") or {}
    sizes = [f"{data[k]:,} {k}" for k in ("train", "val", "test") if _count(data, k)]
    versions = card.get("versions") or {}
    wall = card.get("wall_seconds")
    return [
        ("Data", str(data.get("name", ""))),
        ("Data comes from", str(data.get("provenance", ""))),
        ("Images", ", ".join(sizes)),
        ("Data sha256", str(data.get("sha256", ""))),
        ("Test sha256", str(data.get("test_sha256", ""))),
        ("Threat model", str(card.get("threat", ""))),
        ("Config sha256", str(card.get("config_sha256", ""))),
        ("Commit", str(card.get("commit", ""))),
        ("Seeds", ", ".join(str(seed) for seed in card.get("seeds") or [])),
        ("Device", str(card.get("device", ""))),
        ("Versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
        ("Wall time", duration(float(wall)) if is_number(wall) else ""),
    ]


def _citation(card: Row) -> str:
    data = card.get("data") or {}
    seeds = ", ".join(str(seed) for seed in card.get("seeds") or [])
    commit, _, changes = str(card.get("commit", "")).partition(" ")
    facts = [
        ("commit", f"{commit[:12]} {changes}".strip()),
        ("configuration", str(card.get("config_sha256", ""))[:12]),
        ("data", f"{data.get('name', '')} {str(data.get('sha256', ''))[:12]}".strip()),
        ("seeds", seeds),
    ]
    return "jaxrobust, " + ", ".join(f"{name} {text}" for name, text in facts if text)


def _count(data: Row, key: str) -> bool:
    return isinstance(data.get(key), int)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        pairs = []
        for key, inner in value.items():
            pairs += _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return pairs
    return [(prefix, repr(value))] if prefix else []
