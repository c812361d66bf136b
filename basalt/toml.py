"""Writing and merging TOML; reading it is the standard library's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Table = Mapping[str, Any]


def quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are a part of TOML's; DEL alone TOML wants escaped and JSON does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def merged(below: Table, above: Table) -> dict[str, Any]:
    """*below* with *above* laid over it: tables are merged, everything else replaces."""
    result = dict(below)
    for key, value in above.items():
        present = result.get(key)
        result[key] = merged(present, value) if isinstance(present, dict) and isinstance(value, dict) else value
    return result


def leaves(table: Table, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value that is no table, and of every table that is empty."""
    for key, value in table.items():
        path = (*above, key)
        if isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path


def dumped(table: Table) -> str:
    """A document that reads as *table*: texts, numbers, booleans, dates, lists of those, and tables."""
    return "".join(_lines(table, ()))


def _lines(table: Table, path: tuple[str, ...]) -> Iterator[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if path and (values or not table):
        yield f"[{'.'.join(quoted(name) for name in path)}]\n"
    for key, value in values.items():
        yield f"{quoted(key)} = {_value(value)}\n"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines(value, (*path, key))


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case list():
            return f"[{', '.join(_value(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{quoted(key)} = {_value(item)}' for key, item in value.items())}}}"
        case int() | float():
            return repr(value)
    return str(value.isoformat())
