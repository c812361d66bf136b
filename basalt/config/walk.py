"""One document's tree to a Struct: walk it along the shapes, and say of everything that does not fit where it stands.

msgspec alone would stop at the first problem and knows no line numbers, so the walk is done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from basalt.config import tree
from basalt.config.problems import Position, Problem, nearest_name
from basalt.config.redaction import PLACEHOLDER
from basalt.config.rules import RULES
from basalt.config.tree import Node, Note, Path, Scalar, Sequence, format_path
from basalt.config.types import (
    Choice,
    Field,
    List,
    Number,
    Part,
    Shape,
    Table,
    Text,
    Truth,
    fields_of,
    may_be_secret,
)

# Not YAML 1.1's integers, where 010 is eight and 1:30 is ninety.
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,19})")
_LONGEST_SHOWN = 60


class Invalid:
    """In place of a value that has a problem."""


INVALID = Invalid()


class Walker:
    """Collects the problems of one file.

    :param source: the file's name.
    :param secrets: tags and the secrets that their placeholders stand for.
    :param accept_placeholders: leave placeholders as they are.
    """

    def __init__(
        self, source: str, *, secrets: Mapping[str, str] | None = None, accept_placeholders: bool = False
    ) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._secrets = secrets or {}
        self._accept_placeholders = accept_placeholders
        self._broken: set[Position] = set()
        # The document that the walk is in, as problems name it: "MachineConfig", "VolumeConfig scratch".
        self.document = ""

    def note(self, note: Note) -> None:
        """Take over a problem of the YAML itself. What stands there is not complained about again."""
        self._broken.add(note.position)
        self.problem(note.position, note.path, note.found, note.allowed)

    def problem(self, position: Position, path: Path, found: str, allowed: str = "", nearest: str = "") -> Invalid:
        self.problems.append(
            Problem(
                source=self._source,
                position=position,
                path=f"{self.document}: {format_path(path)}" if self.document else format_path(path),
                found=found,
                allowed=allowed,
                nearest=nearest,
            )
        )
        return INVALID

    def struct(self, node: Node, kind: type[msgspec.Struct], path: Path, *, ignored: tuple[str, ...] = ()) -> Any:
        """A Struct of that kind, its rules checked; INVALID, with the problems noted, where it is none."""
        if not isinstance(node, tree.Mapping):
            return self._unfit(node, Part(kind), path)
        fields = fields_of(kind)
        before = len(self.problems)
        values = {}
        for name, (key, value) in node.entries.items():
            field = fields.get(name)
            if field is not None:
                values[field.name] = self.value(value, field.shape, (*path, name))
            elif name not in ignored:
                self._unknown(key.position, path, name, fields, node)
        for name, field in fields.items():
            if field.required and name not in node.entries:
                self.problem(node.position, (*path, name), f"{name} is missing", field.shape.allowed)
        if len(self.problems) > before:
            return INVALID
        struct = kind(**values)
        for rule in RULES.get(kind, ()):
            for finding in rule(struct):
                where = tree.position_of(node, finding.path)
                self.problem(where, (*path, *finding.path), finding.found, finding.allowed)
        return struct

    def _unknown(
        self, position: Position, path: Path, name: str, fields: Mapping[str, Field], node: tree.Mapping
    ) -> None:
        allowed = ", ".join(fields)
        nearest = nearest_name(name, [known for known in fields if known not in node.entries])
        # Beside secrets, "password=..." or a lost colon may make one part of a name. What is hardly more than a name misspelt is none.
        harmless = re.fullmatch("[A-Za-z_-]{1,32}", name) or (nearest and re.fullmatch("[A-Za-z0-9_-]{1,10}", name))
        if any(may_be_secret(field.shape) for field in fields.values()) and not harmless:
            self.problem(position, path, "an unknown field", allowed, nearest)
        else:
            self.problem(position, (*path, name), f"unknown field {_cut(name)!r}", allowed, nearest)

    def value(self, node: Node, shape: Shape, path: Path) -> Any:
        """A value of that shape; INVALID, with the problems noted, where it is none."""
        if isinstance(node, Scalar):
            if node.position in self._broken:
                return INVALID
            if not node.is_null:
                return self._scalar(node, shape, path)
        match shape:
            case Part():
                return self.struct(node, shape.struct, path)
            case List() if isinstance(node, Sequence):
                return self._items(node, shape, path)
            case Table() if isinstance(node, tree.Mapping):
                return self._entries(node, shape, path)
        return self._unfit(node, shape, path)

    def _scalar(self, node: Scalar, shape: Shape, path: Path) -> Any:
        match shape:
            case Text():
                return self._text(node, shape, path)
            case Choice() if node.text in shape.words:
                return node.text
            case Choice():
                return self._unfit(node, shape, path, nearest=nearest_name(node.text, shape.words))
            case Number() if node.plain and _WHOLE.fullmatch(node.text):
                number = int(node.text)
                if (shape.least is None or number >= shape.least) and (shape.most is None or number <= shape.most):
                    return number
            case Truth() if node.plain and node.text in ("true", "false"):
                return node.text == "true"
        return self._unfit(node, shape, path)

    def _unfit(self, node: Node, shape: Shape, path: Path, *, why: str = "", nearest: str = "") -> Invalid:
        if isinstance(node, Scalar) and not node.is_null and may_be_secret(shape):
            found = "a secret that is not valid" if isinstance(shape, Text) else "found a text"
        else:
            found = f"found {found_words(node)}{why and f': {why}'}"
        return self.problem(node.position, path, found, shape.allowed, nearest)

    def _text(self, node: Scalar, shape: Text, path: Path) -> Any:
        text = node.text
        if shape.secret and (match := PLACEHOLDER.fullmatch(text)) is not None:
            if self._accept_placeholders:
                return text
            known = self._secrets.get(match[1] or "")
            if known is None:
                return self.problem(node.position, path, *_unknown_placeholder(match[1]))
            text = known
        if shape.rule is None:
            return text
        try:
            return shape.rule.canonical(text)
        except ValueError as error:
            return self._unfit(node, shape, path, why=str(error))

    def _items(self, node: Sequence, shape: List, path: Path) -> Any:
        count = len(node.items)
        if shape.most is not None and count > shape.most:
            position = node.items[shape.most].position
            return self.problem(position, path, f"found {count} entries", f"at most {shape.most}")
        if count < shape.least:
            return self.problem(node.position, path, "found an empty list", f"at least {shape.least} entry")
        values = [self.value(item, shape.item, (*path, index)) for index, item in enumerate(node.items)]
        return INVALID if any(value is INVALID for value in values) else tuple(values)

    def _entries(self, node: tree.Mapping, shape: Table, path: Path) -> Any:
        values: dict[Any, Any] = {}
        names: dict[str, Position] = {}
        secret = may_be_secret(shape.value)
        for name, (key, value) in node.entries.items():
            try:
                canonical = shape.name.rule.canonical(name) if shape.name.rule else name
            except ValueError as error:
                if secret:  # "NAME=value" may stand here
                    values[INVALID] = self.problem(key.position, path, "a name that is not valid", shape.name.allowed)
                else:
                    # A name is text whatever it looks like.
                    quoted = Scalar(key.position, name, False)
                    values[INVALID] = self._unfit(quoted, shape.name, (*path, name), why=str(error))
                continue
            if (first := names.setdefault(canonical, key.position)) is not key.position:
                allowed = f"each name once; it stands in line {first.line}"
                values[INVALID] = self.problem(key.position, (*path, name), f"{canonical!r} again", allowed)
                continue
            values[canonical] = self.value(value, shape.value, (*path, name))
        return INVALID if any(value is INVALID for value in values.values()) else values


def _unknown_placeholder(tag: str | None) -> tuple[str, str]:
    if tag is None:
        return "a redacted secret", "the secret itself: this copy was made for reading"
    shown = f"[redacted {tag}]" if re.fullmatch("[0-9a-f]{8}", tag) else "with a tag that is none"
    return (
        f"a redacted secret, {shown}, that the configuration in force does not have",
        "the secret itself, or what `osctl get config` shows for it now",
    )


def found_words(node: Node) -> str:
    """What stands there, in words, shortened. Not for what may be a secret."""
    match node:
        case Sequence():
            return "a list"
        case tree.Mapping():
            return "a mapping"
        case Scalar() if node.is_null:
            return "nothing"
    # User name and password have no place in any address here, but they may have been written.
    text = _cut(re.sub(r"(?<=://)[^/@\s]+@", "...@", node.text))
    return text if node.plain else f"the text {text!r}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
