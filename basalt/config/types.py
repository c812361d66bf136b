"""The documents' types as shapes: what the decoder, the redaction and the error messages walk along.

msgspec describes a type faithfully, and a little too much so to be asked again for every value; a Struct's shapes are made
once and kept. The limits stand in the types and nowhere else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from basalt.config.values import RULE, SECRET, TextRule


class Text(msgspec.Struct, frozen=True):
    """A text. *secret*: no read, diff or error may show it."""

    rule: TextRule | None
    secret: bool

    @property
    def allowed(self) -> str:
        return self.rule.allowed if self.rule else "text"


class Number(msgspec.Struct, frozen=True):
    """A whole number, within limits where they are given."""

    least: int | None
    most: int | None

    @property
    def allowed(self) -> str:
        return "a whole number" if self.most is None else f"a whole number from {self.least} to {self.most}"


class Truth(msgspec.Struct, frozen=True):
    """A boolean."""

    @property
    def allowed(self) -> str:
        return "true or false"


class Choice(msgspec.Struct, frozen=True):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(self.words)


class List(msgspec.Struct, frozen=True):
    """A list, its length within limits where they are given."""

    item: Shape
    least: int
    most: int | None

    @property
    def allowed(self) -> str:
        return f"a list, each entry {self.item.allowed}"


class Table(msgspec.Struct, frozen=True):
    """Names, which are the writer's own, and what belongs to each."""

    name: Text
    value: Shape

    @property
    def allowed(self) -> str:
        return f"a mapping, each name {self.name.allowed}"


class Part(msgspec.Struct, frozen=True):
    """A Struct: names that are given, and what belongs to each."""

    struct: type[msgspec.Struct]

    @property
    def allowed(self) -> str:
        return f"a mapping with {', '.join(fields_of(self.struct))}"


Shape = Text | Number | Truth | Choice | List | Table | Part


class Field(msgspec.Struct, frozen=True):
    """A field of a Struct; *name* is its Python name."""

    name: str
    required: bool
    shape: Shape


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a Struct by their names in a file."""
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return {
        field.encode_name: Field(field.name, field.required, _shape(field.type, field.encode_name))
        for field in described.fields
    }


@cache
def holds_secrets(struct: type[msgspec.Struct]) -> bool:
    """Whether a secret may stand in a Struct of this type, however deep."""
    return any(may_be_secret(field.shape) for field in fields_of(struct).values())


def may_be_secret(shape: Shape) -> bool:
    """Whether a value of this shape is a secret or may hold one."""
    match shape:
        case Text():
            return shape.secret
        case List():
            return may_be_secret(shape.item)
        case Table():
            return may_be_secret(shape.value)
        case Part():
            return holds_secrets(shape.struct)
    return False


def _shape(kind: inspect.Type, name: str) -> Shape:
    """The shape of a type without "or None": a field is left out, never null."""
    extra: dict[str, Any] = {}
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            extra = {**(kind.extra or {}), **extra}
            kind = kind.type
        else:
            (kind,) = (member for member in kind.types if not isinstance(member, inspect.NoneType))
    match kind:
        case inspect.StrType():
            return Text(extra.get(RULE), bool(extra.get(SECRET)))
        case inspect.IntType():
            return Number(kind.ge, kind.le)
        case inspect.BoolType():
            return Truth()
        case inspect.LiteralType():
            return Choice(tuple(str(value) for value in kind.values))
        case inspect.VarTupleType():
            return List(_shape(kind.item_type, name), kind.min_length or 0, kind.max_length)
        case inspect.DictType():
            key = _shape(kind.key_type, name)
            assert isinstance(key, Text)
            return Table(key, _shape(kind.value_type, name))
        case inspect.StructType():
            return Part(kind.cls)
    raise TypeError(f"no shape for the type of {name}: {kind}")
