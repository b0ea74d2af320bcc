"""Mistakes of the user, reported as one line: what is wrong and what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend. `main` prints it as one line and exits with 2."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """A `UserError` for a name outside `known`, with the closest ones first."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return UserError(f"unknown {kind} {name!r}: {hint}choose from {', '.join(names)}")
