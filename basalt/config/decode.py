"""Trees to documents: walk the YAML tree along the types, and say of everything that does not fit where it stands.

msgspec alone would stop at the first problem and knows no line numbers, so the walk is done here, driven by msgspec's own
description of the types (:mod:`msgspec.inspect`); the limits stand in the types and nowhere else.
"""

from __future__ import annotations

import collections.abc
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from basalt.config import tree
from basalt.config.documents import API_VERSION, KINDS, Configuration, ServiceConfig, VolumeConfig
from basalt.config.problems import ConfigError, Position, Problem, nearest_name
from basalt.config.redaction import PLACEHOLDER
from basalt.config.rules import RULES
from basalt.config.tree import Mapping, Node, Path, Scalar, Sequence, format_path
from basalt.config.types import fields_of, plain
from basalt.config.values import RULE, SECRET, TextRule

_Kind = TypeVar("_Kind", bound=msgspec.Struct)
Secrets = collections.abc.Mapping[str, str]


def parse(
    data: bytes, source: str, *, secrets: Secrets | None = None, accept_placeholders: bool = False
) -> Configuration:
    """Read a configuration.

    :param data: one or more YAML documents, UTF-8.
    :param source: the name of where *data* came from, for the errors.
    :param secrets: what :func:`basalt.config.secrets_of` gave: placeholders of redacted secrets with these tags are replaced.
    :param accept_placeholders: leave the placeholders of redacted secrets as they are. For checking a redacted copy where no
        secrets are known; the result is not for use.
    :raises ConfigError: with every problem found.
    """
    roots, problems = tree.read(data, source)
    decoder = _Decoder(source, problems, secrets=secrets or {}, accept_placeholders=accept_placeholders)
    configuration = decoder.configuration(roots)
    if decoder.problems:
        raise ConfigError(source, decoder.problems)
    return configuration


def parse_struct(data: bytes, source: str, kind: type[_Kind]) -> _Kind:
    """Read one YAML document that is no configuration document, with the same strictness and the same errors.

    :param kind: a Struct whose fields have the types that configuration documents use.
    :raises ConfigError: with every problem found.
    """
    roots, problems = tree.read(data, source)
    decoder = _Decoder(source, problems)
    if len(roots) != 1 and not problems:
        decoder.problem(Position(1, 1), (), f"found {len(roots)} documents", "one")
    value = decoder.struct(roots[0], kind, ()) if roots else INVALID
    if decoder.problems or not isinstance(value, kind):
        raise ConfigError(source, decoder.problems)
    return value


class _Invalid:
    """In place of a value that has a problem."""


INVALID = _Invalid()


class _Decoder:
    def __init__(
        self,
        source: str,
        problems: Iterable[Problem],
        *,
        secrets: Secrets | None = None,
        accept_placeholders: bool = False,
    ) -> None:
        self.source = source
        self.secrets = secrets or {}
        self.accept_placeholders = accept_placeholders
        self.problems = list(problems)
        # What the reader already complained about is not complained about again.
        self.broken = {problem.position for problem in self.problems}

    def problem(self, position: Position, path: Path, found: str, allowed: str = "", nearest: str = "") -> _Invalid:
        self.problems.append(
            Problem(
                source=self.source,
                position=position,
                path=format_path(path),
                found=found,
                allowed=allowed,
                nearest=nearest,
            )
        )
        return INVALID

    def configuration(self, roots: list[Node]) -> Configuration:
        present: dict[str, Any] = {}
        named: dict[str, list[VolumeConfig | ServiceConfig]] = {}
        seen: dict[tuple[str, str], Position] = {}
        for root in roots:
            if isinstance(root, Scalar) and root.is_null:
                continue
            kind = self.kind(root)
            if kind is None or not isinstance(root, Mapping):
                continue
            position = root.entries["kind"][1].position
            document, field = KINDS[kind]
            value = self.struct(root, document, (), ignored=frozenset({"kind"}))
            name = value.name if isinstance(value, VolumeConfig | ServiceConfig) else ""
            if (first := seen.setdefault((kind, name), position)) is not position:
                which = f"a second {kind} {name}".rstrip()
                self.problem(position, ("kind",), which, f"one; the first stands in line {first.line}")
            elif isinstance(value, VolumeConfig | ServiceConfig):
                named.setdefault(field, []).append(value)
            elif isinstance(value, document):
                present[field] = value
        if not seen and not self.problems:
            self.problem(Position(1, 1), (), "no document", f"at least one of {', '.join(KINDS)}")
        present |= {field: tuple(sorted(found, key=lambda one: one.name)) for field, found in named.items()}
        return Configuration(**present)

    def kind(self, root: Node) -> str | None:
        """The kind of document that *root* says it is; None, with the problems noted, where it is none."""
        if not isinstance(root, Mapping):
            self.problem(root.position, (), f"found {_found(root)}", "a mapping with apiVersion, kind and fields")
            return None
        api = self.header(root, "apiVersion", (API_VERSION,))
        kind = self.header(root, "kind", KINDS)
        return kind if api is not None else None

    def header(self, root: Mapping, name: str, known: Iterable[str]) -> str | None:
        allowed = " or ".join(known)
        if name not in root.entries:
            near = nearest_name(name, [key for key in root.entries if key not in ("apiVersion", "kind")])
            meant = f" (is {near!r} meant to be it?)" if near else ""
            self.problem(root.position, (), f"{name} is missing{meant}", allowed)
            return None
        node = root.entries[name][1]
        if isinstance(node, Scalar) and node.text in known:
            return node.text
        near = nearest_name(node.text, known) if isinstance(node, Scalar) else ""
        self.problem(node.position, (name,), f"found {_found(node)}", allowed, near)
        return None

    def struct(
        self, node: Node, kind: type[msgspec.Struct], path: Path, *, ignored: frozenset[str] = frozenset()
    ) -> Any:
        fields = {field.encode_name: field for field in fields_of(kind)}
        if not isinstance(node, Mapping):
            return self.problem(node.position, path, f"found {_found(node)}", f"a mapping with {', '.join(fields)}")
        before = len(self.problems)
        values = {}
        for name, (key, value) in node.entries.items():
            if name in ignored:
                continue
            field = fields.get(name)
            if field is None:
                known = [known for known in fields if known not in node.entries]
                self.problem(
                    key.position, (*path, name), f"unknown field {name!r}", ", ".join(fields), nearest_name(name, known)
                )
                continue
            values[field.name] = self.value(value, field.type, (*path, name))
        for name, field in fields.items():
            if field.required and name not in node.entries:
                allowed = _allowed(field.type)
                self.problem(node.position, (*path, name), f"{name} is missing", allowed)
        if len(self.problems) > before:
            return INVALID
        struct = kind(**values)
        for rule in RULES.get(kind, ()):
            for finding in rule(struct):
                where = tree.position_of(node, finding.path)
                self.problem(where, (*path, *finding.path), finding.found, finding.allowed)
        return struct

    def value(self, node: Node, kind: inspect.Type, path: Path) -> Any:
        if node.position in self.broken and isinstance(node, Scalar):
            return INVALID
        kind, extra = plain(kind)
        match kind:
            case inspect.StructType():
                return self.struct(node, kind.cls, path)
            case inspect.VarTupleType():
                return self.items(node, kind, path)
            case inspect.DictType():
                return self.entries(node, kind, path)
        if not isinstance(node, Scalar) or node.is_null:
            return self.problem(node.position, path, f"found {_found(node)}", _allowed(kind, extra))
        match kind:
            case inspect.StrType():
                return self.text(node, kind, path, extra)
            case inspect.LiteralType():
                if node.text in kind.values:
                    return node.text
                nearest = nearest_name(node.text, map(str, kind.values))
                return self.problem(node.position, path, f"found {_found(node)}", _allowed(kind), nearest)
            case inspect.IntType():
                # Not YAML 1.1's integers, where 010 is eight and 1:30 is ninety.
                if node.plain and re.fullmatch(r"-?(0|[1-9][0-9]{0,19})", node.text):
                    number = int(node.text)
                    if (kind.ge is None or number >= kind.ge) and (kind.le is None or number <= kind.le):
                        return number
            case inspect.BoolType():
                if node.plain and node.text in ("true", "false"):
                    return node.text == "true"
            case _:
                raise TypeError(f"the decoder knows no {kind} (at {format_path(path)})")
        return self.problem(node.position, path, f"found {_found(node)}", _allowed(kind))

    def text(self, node: Scalar, kind: inspect.StrType, path: Path, extra: dict[str, Any]) -> Any:
        secret = bool(extra.get(SECRET))
        text = node.text
        if secret and (match := PLACEHOLDER.fullmatch(text)) is not None:
            if self.accept_placeholders:
                return text
            known = self.secrets.get(match[1] or "")
            if known is None:
                return self.problem(node.position, path, *_unknown_placeholder(match[1]))
            text = known
        rule = extra.get(RULE)
        if not isinstance(rule, TextRule):
            return text
        try:
            return rule.canonical(text)
        except ValueError as error:
            found = "a secret that is not valid" if secret else f"found {_found(node)}: {error}"
            return self.problem(node.position, path, found, _allowed(kind, extra))

    def items(self, node: Node, kind: inspect.VarTupleType, path: Path) -> Any:
        if not isinstance(node, Sequence):
            return self.problem(node.position, path, f"found {_found(node)}", _allowed(kind))
        if kind.max_length is not None and len(node.items) > kind.max_length:
            return self.problem(
                node.items[kind.max_length].position,
                path,
                f"found {len(node.items)} entries",
                f"at most {kind.max_length}",
            )
        if kind.min_length is not None and len(node.items) < kind.min_length:
            return self.problem(node.position, path, "found an empty list", f"at least {kind.min_length} entry")
        values = [self.value(item, kind.item_type, (*path, index)) for index, item in enumerate(node.items)]
        return INVALID if any(value is INVALID for value in values) else tuple(values)

    def entries(self, node: Node, kind: inspect.DictType, path: Path) -> Any:
        if not isinstance(node, Mapping):
            return self.problem(node.position, path, f"found {_found(node)}", _allowed(kind))
        values = {}
        for name, (key, value) in node.entries.items():
            # A name is text whatever it looks like.
            checked = self.value(Scalar(key.position, key.text, False), kind.key_type, (*path, name))
            values[checked] = self.value(value, kind.value_type, (*path, name))
        return INVALID if INVALID in values or any(value is INVALID for value in values.values()) else values


def _unknown_placeholder(tag: str | None) -> tuple[str, str]:
    if tag is None:
        return "a redacted secret", "the secret itself: this copy was made for reading"
    return (
        f"a redacted secret, [redacted {tag}], that the configuration in force does not have",
        "the secret itself, or what `osctl get config` shows for it now",
    )


def _allowed(kind: inspect.Type, extra: dict[str, Any] | None = None) -> str:
    """What a type allows, in words."""
    kind, found = plain(kind)
    rule = (extra or found).get(RULE)
    if isinstance(rule, TextRule):
        return rule.allowed
    match kind:
        case inspect.StrType():
            return "text"
        case inspect.IntType():
            return f"a whole number from {kind.ge} to {kind.le}" if kind.le is not None else "a whole number"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return " or ".join(map(str, kind.values))
        case inspect.VarTupleType():
            return f"a list, each entry {_allowed(kind.item_type)}"
        case inspect.DictType():
            return f"a mapping, each name {_allowed(kind.key_type)}"
        case inspect.StructType():
            return f"a mapping with {', '.join(field.encode_name for field in kind.fields)}"
    raise TypeError(f"the decoder knows no {kind}")


def _found(node: Node) -> str:
    match node:
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"
        case Scalar() if node.is_null:
            return "nothing"
    text = node.text if len(node.text) <= 60 else f"{node.text[:57]}..."
    return text if node.plain else f"the text {text!r}"
