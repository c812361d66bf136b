"""Files to configurations: which document is of which kind, each at most once, every problem in one error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from basalt.config import tree
from basalt.config.documents import API_VERSION, KINDS, NAMED_KINDS, Configuration
from basalt.config.problems import ConfigError, Position, nearest_name
from basalt.config.rules import CONFIGURATION_RULES
from basalt.config.tree import Node, Scalar
from basalt.config.walk import Walker, found_words

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def parse(
    data: bytes, source: str, *, secrets: Mapping[str, str] | None = None, accept_placeholders: bool = False
) -> Configuration:
    """Read a configuration.

    :param data: one or more YAML documents, UTF-8.
    :param source: the name of where *data* came from, for the errors.
    :param secrets: what :func:`basalt.config.secrets_of` gave: placeholders of redacted secrets with these tags are replaced.
    :param accept_placeholders: leave the placeholders of redacted secrets as they are. For checking a redacted copy where no
        secrets are known; the result is not for use.
    :raises ConfigError: with every problem found.
    """
    roots, notes = tree.read(data)
    walker = Walker(source, secrets=secrets, accept_placeholders=accept_placeholders)
    return configuration_of(roots, notes, source, walker)


def parse_struct(data: bytes, source: str, kind: type[_Kind]) -> _Kind:
    """Read one YAML document that is no configuration document, with the same strictness and the same errors.

    :param kind: a Struct whose fields have the types that configuration documents use.
    :raises ConfigError: with every problem found.
    """
    roots, notes = tree.read(data)
    walker = Walker(source)
    for note in notes:
        walker.note(note)
    if len(roots) != 1 and not notes:
        walker.problem(Position(1, 1), (), f"found {len(roots)} documents", "one")
    value = walker.struct(roots[0], kind, ()) if roots else None
    if walker.problems or not isinstance(value, kind):
        raise ConfigError(source, walker.problems)
    return value


class Head(NamedTuple):
    """What a document says that it is. As text it is how problems name it: ``MachineConfig``, ``VolumeConfig scratch``."""

    kind: str
    name: str = ""  # empty for a kind that is not named, and where the name is missing or unfit

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


def head_of(root: Node) -> Head | None:
    """What *root* says that it is; None where it has no known kind."""
    kind = _text_at(root, "kind")
    if kind not in KINDS:
        return None
    name = _text_at(root, "name") if kind in NAMED_KINDS else ""
    return Head(kind, name if re.fullmatch(r"[\w.-]{1,63}", name) else "")


def _text_at(root: Node, name: str) -> str:
    node = root.entries[name][1] if isinstance(root, tree.Mapping) and name in root.entries else None
    return node.text if isinstance(node, Scalar) else ""


def _position(root: Node) -> Position:
    return root.position


class _Document(NamedTuple):
    head: Head
    root: tree.Mapping
    value: Any  # the Struct, or INVALID


def configuration_of(roots: Iterable[Node], notes: Iterable[tree.Note], source: str, walker: Walker) -> Configuration:
    """The configuration that these documents are.

    :param notes: what is wrong with their YAML.
    :raises ConfigError: with every problem found.
    """
    roots = [root for root in roots if not (isinstance(root, Scalar) and root.is_null)]
    for note in notes:
        # It stands in the last of the documents that begin before it.
        before = max((root for root in roots if root.position <= note.position), key=_position, default=None)
        walker.document = str((before and head_of(before)) or "")
        walker.note(note)
    documents = _documents(roots, walker)
    walker.document = ""
    if not documents and not walker.problems:
        walker.problem(Position(1, 1), (), "no document", f"at least one of {', '.join(KINDS)}")
    if walker.problems:
        raise ConfigError(source, walker.problems)
    configuration = _assembled(documents)
    for rule in CONFIGURATION_RULES:
        for about, finding in rule(configuration):
            document = next(document for document in documents if document.value is about)
            walker.document = str(document.head)
            where = tree.position_of(document.root, finding.path)
            walker.problem(where, finding.path, finding.found, finding.allowed)
    if walker.problems:
        raise ConfigError(source, walker.problems)
    return configuration


def _documents(roots: Iterable[Node], walker: Walker) -> list[_Document]:
    documents: list[_Document] = []
    lines: dict[Head, int] = {}
    for root in roots:
        walker.document = ""
        kind = _kind_of(root, walker)
        head = head_of(root)
        if kind is None or head is None or not isinstance(root, tree.Mapping):
            continue
        walker.document = str(head)
        documents.append(_Document(head, root, walker.struct(root, KINDS[kind][0], (), ignored=("kind",))))
        position = root.entries["kind"][1].position
        if head.kind in NAMED_KINDS and not head.name:
            continue
        if (first := lines.setdefault(head, position.line)) != position.line:
            walker.problem(position, ("kind",), f"a second {head}", f"one; the first stands in line {first}")
    return documents


def _assembled(documents: Iterable[_Document]) -> Configuration:
    fields: dict[str, Any] = {}
    for head, _, value in sorted(documents, key=lambda document: document.head.name):
        field = KINDS[head.kind][1]
        fields[field] = (*fields.get(field, ()), value) if head.kind in NAMED_KINDS else value
    return Configuration(**fields)


def _kind_of(root: Node, walker: Walker) -> str | None:
    """The kind of document that *root* says it is; None, with the problems noted, where it is none."""
    if not isinstance(root, tree.Mapping):
        found = "a text" if isinstance(root, Scalar) else found_words(root)
        walker.problem(root.position, (), f"found {found}", "a mapping with apiVersion, kind and fields")
        return None
    version, kind = has_header(root, "apiVersion", (API_VERSION,), walker), has_header(root, "kind", KINDS, walker)
    return _text_at(root, "kind") if version and kind else None


def has_header(root: tree.Mapping, name: str, known: Iterable[str], walker: Walker) -> bool:
    """Whether the field *name* has one of the *known* words; if not, a problem is noted."""
    allowed = " or ".join(known)
    if name not in root.entries:
        near = nearest_name(name, [key for key in root.entries if key not in ("apiVersion", "kind")])
        meant = f" (is {near!r} meant to be it?)" if near else ""
        walker.problem(root.position, (), f"{name} is missing{meant}", allowed)
        return False
    node = root.entries[name][1]
    if isinstance(node, Scalar) and node.text in known:
        return True
    near = nearest_name(node.text, known) if isinstance(node, Scalar) else ""
    walker.problem(node.position, (name,), f"found {found_words(node)}", allowed, near)
    return False
