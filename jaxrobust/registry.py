"""Families of methods as literal dicts: look a name up, bind its configuration."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust.errors import UserError, unknown_name


def lookup(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """The entry `name` of `table`; an unknown name lists the known ones."""
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def build(kind: str, table: Mapping[str, Callable], spec: Mapping, **given) -> Any:
    """Call `table[spec["name"]]` with the rest of `spec` and whatever it wants of
    `given`.

    `given` holds what the program supplies (a threat model, the class count, ...);
    a leaf takes from it only the parameters that it declares. A key of `spec` that the
    leaf does not declare, or a parameter that nobody supplies, is the user's mistake.
    """
    options = dict(spec)
    if "name" not in options:
        raise UserError(f"{kind} needs a name: choose from {', '.join(sorted(table))}")
    name = options.pop("name")
    return call(f"{kind} {name!r}", lookup(kind, table, name), options, given)


def call(what: str, leaf: Callable, options: Mapping, given: Mapping) -> Any:
    """`leaf(**options)` with whatever it declares of `given`; mistakes as in `build`,
    where `what` is the name of the block of options."""
    parameters = inspect.signature(leaf).parameters
    allowed = [key for key in parameters if key not in given]
    for key in options:
        if key not in allowed:
            raise unknown_name(f"key of {what}", key, allowed or ["(none)"])
    supplied = {key: given[key] for key in given if key in parameters}
    arguments = {**options, **supplied}
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in arguments
    ]
    if missing:
        raise UserError(f"{what} needs a value for {', '.join(missing)}")
    return leaf(**arguments)
