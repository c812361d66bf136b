"""YAML to a tree that knows where everything stood.

Built from PyYAML's parse events rather than its composer, which gives control of what matters in a file that decides how
a node comes up: aliases and tags are refused (a reviewer reads what is there), a key written twice is refused (YAML lets
the last win), and no scalar is resolved here. Scalars keep their text; the type of the field decides what it means, so a
host named ``no`` or ``1e3`` stays a host name, which YAML 1.1's resolver would not leave alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from basalt.config.problems import Position

# Both bounds are far above any real configuration and keep what a stranger's bytes can cost small.
MAX_SIZE_BYTES = 1 << 20
MAX_DEPTH = 32

# libyaml where PyYAML was built with it: about eight times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]


class Scalar(msgspec.Struct, frozen=True):
    """A text. *plain* is true where it had no quotes, so that it may stand for a number, a boolean or nothing."""

    position: Position
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


class Sequence(msgspec.Struct, frozen=True):
    position: Position
    items: list[Node]


class Mapping(msgspec.Struct, frozen=True):
    position: Position
    entries: dict[str, tuple[Scalar, Node]]


Node = Scalar | Sequence | Mapping


class Note(msgspec.Struct, frozen=True):
    """Something that is wrong with the YAML itself."""

    position: Position
    path: Path
    found: str
    allowed: str = ""


def format_path(path: Path) -> str:
    """``$.links[0].mtu``; a name that is no plain word is quoted."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif re.fullmatch(r"\w+", part):
            parts.append(f".{part}")
        else:
            parts.append(f"[{part!r}]")
    return "$" + "".join(parts)


class _Halt(Exception):  # noqa: N818 - not an error: it unwinds the reader after a problem was recorded
    """Nothing after this place can be read."""


class _Reader:
    """Builds trees from events. Problems that leave the structure readable are noted and reading goes on.

    Notes do not repeat what was written: nobody knows here whether it was meant to be a secret.
    """

    def __init__(self, text: str) -> None:
        self.notes: list[Note] = []
        self.text = text
        self.events: Iterator[Any] = yaml.parse(text, Loader=_Loader)

    def note(self, position: Position, path: Path, found: str, allowed: str = "") -> None:
        self.notes.append(Note(position, path, found, allowed))

    def next(self) -> tuple[Any, Position]:
        event = next(self.events)
        return event, Position(event.start_mark.line + 1, event.start_mark.column + 1)

    def documents(self) -> list[Node]:
        roots: list[Node] = []
        try:
            while True:
                event, _ = self.next()
                if isinstance(event, yaml.StreamEndEvent):
                    break
                if isinstance(event, yaml.DocumentStartEvent):
                    roots.append(self.node(*self.next(), ()))
        except yaml.MarkedYAMLError as error:
            position, found, allowed = _explain(error, self.text.split("\n"))
            self.note(position, (), found, allowed)
        except yaml.reader.ReaderError as error:
            # Its own position is in bytes or in characters, depending on the parser.
            code = error.character if isinstance(error.character, int) else ord(error.character)
            where = _position_after(self.text[: self.text.find(chr(code))])
            self.note(where, (), f"the character U+{code:04X}", "printable text")
        except _Halt:
            pass
        return roots

    def node(self, event: Any, position: Position, path: Path) -> Node:
        if len(path) > MAX_DEPTH:
            self.note(position, path, f"nested deeper than {MAX_DEPTH} levels")
            raise _Halt
        if isinstance(event, yaml.AliasEvent):
            self.note(position, path, "an alias", "the value itself, in quotes where it begins with '*'")
            return Scalar(position, "", True)
        if event.anchor is not None:
            self.note(position, path, "an anchor", "the value alone, in quotes where it begins with '&'")
        if event.tag is not None:
            self.note(
                position, path, "a tag", "the value alone, in quotes where it begins with '!'; the field has a type"
            )
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(position, event.value, event.style in (None, ""))
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(position, self.items(path))
        return Mapping(position, self.entries(path))

    def items(self, path: Path) -> list[Node]:
        items: list[Node] = []
        while True:
            event, position = self.next()
            if isinstance(event, yaml.SequenceEndEvent):
                return items
            items.append(self.node(event, position, (*path, len(items))))

    def entries(self, path: Path) -> dict[str, tuple[Scalar, Node]]:
        entries: dict[str, tuple[Scalar, Node]] = {}
        while True:
            event, position = self.next()
            if isinstance(event, yaml.MappingEndEvent):
                return entries
            key = self.node(event, position, path)
            name = key.text if isinstance(key, Scalar) else ""
            value = self.node(*self.next(), (*path, name))
            if not isinstance(key, Scalar):
                self.note(position, path, "a list or mapping as a name", "a plain word")
            elif name in entries:
                first = entries[name][0].position
                self.note(position, (*path, name), f"{name!r} again", f"each name once; it stands in line {first.line}")
            else:
                entries[name] = (key, value)


def read(data: bytes) -> tuple[list[Node], list[Note]]:
    """The documents in *data*, and what is wrong with the YAML itself.

    After a syntax error the documents before it are still returned, so that their problems can be told as well.
    """
    start = Position(1, 1)
    if len(data) > MAX_SIZE_BYTES:
        return [], [Note(start, (), f"{len(data)} bytes", f"at most {MAX_SIZE_BYTES}")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        found = f"byte 0x{error.object[error.start]:02x}, which is not UTF-8"
        return [], [Note(_position_after(before), (), found, "UTF-8")]
    reader = _Reader(text)
    return reader.documents(), reader.notes


def _position_after(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _explain(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[Position, str, str]:
    """A syntax error in words: where, what was found, what is allowed. PyYAML's words, except where they mislead."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Position(1, 1), f"YAML syntax error: {error.problem}", ""
    position = Position(mark.line + 1, mark.column + 1)
    line = lines[mark.line] if mark.line < len(lines) else ""
    character = line[mark.column : mark.column + 1]
    if character == "\t":
        return position, "a tab", "spaces: YAML is indented with them alone"
    problem = str(error.problem)
    if "cannot start any token" in problem:
        return position, f"{character!r} at the beginning of a value", "the value in quotes"
    begun = error.context_mark
    if begun is not None and begun.line < mark.line:
        problem += f" {error.context}, which began in line {begun.line + 1}"
    return position, f"YAML syntax error: {problem}", ""


def position_of(root: Node, path: Path) -> Position:
    """Where *path* stands below *root*; where it does not exist, its nearest ancestor's place."""
    node = root
    for part in path:
        if isinstance(node, Mapping) and part in node.entries:
            node = node.entries[str(part)][1]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            break
    return node.position
