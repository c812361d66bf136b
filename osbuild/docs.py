"""Reference pages made from the code: ``python -m osbuild.docs [--check]``.

``docs/reference/cli-osbuild.md`` comes from the table of commands, ``profiles.md`` from the types of a profile and what their
docstrings say. Both are committed; a test checks that they are fresh. The exit codes are shared with osctl (:mod:`basalt.docs`).
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from basalt.docs import command_line_page, made_by, main, tidy
from osbuild.cli import PROGRAM
from osbuild.profile import Profile

MODULE = "osbuild.docs"


def profiles_page() -> str:
    """Every key of a profile, table by table."""
    lines = ["# Profiles", "", made_by(MODULE), ""]
    lines += [
        "A profile is a file `profiles/NAME.toml`. Reading is strict: an unknown key or a wrong type is an error that names the file,",
        "the line and the nearest valid key. `osbuild profiles` lists them; `--profile` also takes the path of a file.",
        "",
        *_struct(Profile, "Top level"),
    ]
    for field in msgspec.structs.fields(Profile):
        if _is_struct(field.type):
            lines += _struct(field.type, f"[{field.name}]")
    return tidy(lines)


def _struct(kind: type[msgspec.Struct], title: str) -> Iterator[str]:
    summary, meanings = described(kind)
    yield from (f"## {title}", "", summary, "", "| key | type | default | meaning |", "|---|---|---|---|")
    for field in msgspec.structs.fields(kind):
        if _is_struct(field.type):
            yield f"| `{field.name}` | table | required | see [below](#{field.name}) |"
        else:
            yield f"| `{field.name}` | {_type(field.type)} | {_default(field)} | {meanings[field.name]} |"
    yield ""


def described(kind: type) -> tuple[str, dict[str, str]]:
    """What the docstring of *kind* says of it, and of each of its fields (``:param name: meaning``)."""
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    summary, *parameters = re.split(r"^:param (\w+): ", text, flags=re.MULTILINE)
    meanings = dict(zip(parameters[::2], (" ".join(part.split()) for part in parameters[1::2]), strict=True))
    return " ".join(summary.split()), meanings


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, msgspec.Struct)


def _type(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"table: {_type(get_args(kind)[1])} by name"
    return {str: "text", int: "whole number", bool: "`true` or `false`"}[kind]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    return f"`{str(field.default).lower()}`" if field.default != "" else "none"


def pages() -> dict[str, str]:
    """File name and content of every page."""
    return {"cli-osbuild.md": command_line_page(PROGRAM, MODULE), "profiles.md": profiles_page()}


if __name__ == "__main__":
    sys.exit(main(MODULE, pages()))
