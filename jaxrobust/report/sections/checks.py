"""Checks that the run made on itself: failed ones on top, passed ones at the end."""

from jaxrobust.report.page import Cell, Fold, Section, Table, Text
from jaxrobust.report.run import Row, Run

_MANY, _FEW = 40, 2


def failed_checks(run: Run) -> Section | None:
    """A red box for each failed check, or for all networks that failed it alike;
    nothing below it should be trusted unread."""
    alike: dict[tuple[str, str], list[Row]] = {}
    for check in run.checks:
        if not check.get("ok"):
            name = _word(check, "name").rpartition(": ")[2]
            alike.setdefault((name, _word(check, "note")), []).append(check)
    if not alike:
        return None
    return Section(
        "", tuple(part for found in alike.items() for part in _boxes(*found))
    )


def _boxes(what: tuple[str, str], checks: list[Row]) -> tuple[Text | Fold, ...]:
    if len(checks) <= _FEW:
        return tuple(Text(_alarm(check), "alert") for check in checks)
    name, note = what
    first = {"name": f"{name}, {len(checks)} times", "note": note}
    rows = tuple(
        (Cell(_word(check, "name").rpartition(": ")[0]), Cell(_word(check, "value")))
        for check in checks
    )
    table = Table(("Where", "Value"), rows, text_columns=2)
    return Text(_alarm(first), "alert"), Fold("Where, and what was seen", (table,))


def passed_checks(run: Run) -> Section | None:
    """The checks that held, with the value that each one saw."""
    passed = [check for check in run.checks if check.get("ok")]
    if not passed:
        return None
    rows = tuple(
        (
            Cell(_word(check, "name")),
            Cell(_word(check, "value")),
            Cell(_word(check, "note")),
        )
        for check in passed
    )
    table = Table(("Check", "Value", "Meaning"), rows, text_columns=3)
    said = f"{len(passed)} of {len(run.checks)} checks passed."
    if len(passed) <= _MANY:
        return Section("Checks", (Text(said), table))
    return Section("Checks", (Text(said), Fold("What they saw", (table,))))


def _alarm(check: Row) -> str:
    parts = [f"Check failed: {_word(check, 'name')}", _word(check, "value")]
    note = f" ({_word(check, 'note')})" if _word(check, "note") else ""
    return ": ".join(part for part in parts if part) + note


def _word(check: Row, key: str) -> str:
    value = check.get(key)
    return "" if value is None else str(value)
