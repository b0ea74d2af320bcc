"""Print the golden steps, old and new, and write the new ones.

Run `python -m tests.golden.update` after a change that is meant to move the numbers,
read what moved, and say why under "Numerics" in CHANGELOG.md.
"""

import json

from tests import conftest

conftest.be_strict()

from jaxrobust.objectives import OBJECTIVES  # noqa: E402
from tests.golden.step import FILE, golden, stored  # noqa: E402


def main() -> None:
    """Regenerate steps.json."""
    old, new = stored(), {name: golden(name) for name in sorted(OBJECTIVES)}
    for name, numbers in new.items():
        for key, value in numbers.items():
            before = old.get(name, {}).get(key)
            mark = "" if before == value else "   <- was " + str(before)
            print(f"{name:10} {key:12} {value:<12g}{mark}")
    FILE.write_text(json.dumps(new, indent=2) + "\n")


if __name__ == "__main__":
    main()
