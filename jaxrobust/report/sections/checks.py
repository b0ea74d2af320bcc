"""Checks that the run made on itself: failed ones on top, passed ones at the end."""

from jaxrobust.report.page import Cell, Fold, Section, Table, Text
from jaxrobust.report.run import Row, Run

_MANY = 40


def failed_checks(run: Run) -> Section | None:
    """One red box for each failed check; nothing below it should be trusted unread."""
    failed = [check for check in run.checks if not check.get("ok")]
    if not failed:
        return None
    return Section("", tuple(Text(_alarm(check), "alert") for check in failed))


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
