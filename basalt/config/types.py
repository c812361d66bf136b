"""msgspec's description of the documents' types, in the two forms that everything here walks along."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import inspect


@cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """The fields of a Struct with their types and limits."""
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return described.fields


def plain(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """A type without its annotations and without "or None", and what the annotations say beyond the schema."""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra = {**(kind.extra or {}), **extra}
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            (kind,) = (member for member in kind.types if not isinstance(member, inspect.NoneType))
        else:
            return kind, extra
