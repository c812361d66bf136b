"""Changes to documents, written as documents: JSON merge patch (RFC 7396) for each.

A document of the patch changes the one of its kind, and of its name where the kind is named; without one it is added. Its fields
take the place of those that are there, mappings are merged field by field, lists are replaced whole, and a field that is null is
taken out. ``$patch: delete``, as in Kubernetes' strategic merge patch, takes the whole document out::

    apiVersion: basalt.dev/v1alpha1
    kind: VolumeConfig
    name: scratch
    $patch: delete

What the patch leaves alone keeps its redacted secrets, which the node puts back (:func:`basalt.config.redact`).
"""

from __future__ import annotations

from basalt.config import tree
from basalt.config.decode import Head, configuration_of, has_header, head_of
from basalt.config.documents import API_VERSION
from basalt.config.problems import ConfigError, Position
from basalt.config.render import render
from basalt.config.tree import Mapping, Node, Scalar, Sequence
from basalt.config.walk import Walker, found_words

_DIRECTIVE = "$patch"
_BEGIN = Position(1, 1)


def patch(documents: bytes, changes: bytes, source: str) -> bytes:
    """The canonical form of *documents* with *changes* made.

    :param documents: a valid configuration, as ``osctl get config`` shows it; may be empty.
    :param changes: the patch: one or more YAML documents.
    :param source: the name of where *changes* came from, for the errors, whose positions are all in it.
    :raises ConfigError: the patch is none, or what it makes is not valid.
    """
    present, _ = tree.read(documents)
    wanted, notes = tree.read(changes)
    walker = Walker(source, accept_placeholders=True)
    if notes:
        for note in notes:
            walker.note(note)
        raise ConfigError(source, walker.problems)
    roots = {head: _moved(root, _BEGIN) for root in present if (head := head_of(root)) is not None}
    others = []
    for change in wanted:
        head = head_of(change)
        if head is None or not isinstance(change, Mapping):
            others.append(change)
        elif _DIRECTIVE not in change.entries:
            roots[head] = _merged(roots.get(head), change)
        elif _deletes(change, head, roots, walker):
            del roots[head]
    return render(configuration_of([*roots.values(), *others], (), source, walker))


def _deletes(change: Mapping, head: Head, present: dict[Head, Node], walker: Walker) -> bool:
    """Whether *change* takes out a document that is there; if not, the problems are noted."""
    before = len(walker.problems)
    walker.document = str(head)
    value = change.entries[_DIRECTIVE][1]
    if not isinstance(value, Scalar) or value.text != "delete":
        walker.problem(value.position, (_DIRECTIVE,), f"found {found_words(value)}", "delete")
    for name, (key, _) in change.entries.items():
        if name not in (_DIRECTIVE, "apiVersion", "kind", "name"):
            walker.problem(key.position, (name,), f"a field beside {_DIRECTIVE}", "apiVersion, kind and name")
    if "apiVersion" in change.entries:
        has_header(change, "apiVersion", (API_VERSION,), walker)
    if head not in present:
        there = (
            " or ".join(str(other) for other in present if other.kind == head.kind) or f"none: no {head.kind} is there"
        )
        walker.problem(change.position, (), "a document that is not there", there)
    return len(walker.problems) == before


def _merged(present: Node | None, change: Node) -> Node:
    """RFC 7396, section 2. What stays gets the place of the change, so that problems stand in the patch."""
    if not isinstance(change, Mapping):
        return change
    kept = present.entries if isinstance(present, Mapping) else {}
    entries = {name: (key, _moved(value, change.position)) for name, (key, value) in kept.items()}
    for name, (key, value) in change.entries.items():
        if isinstance(value, Scalar) and value.is_null:
            entries.pop(name, None)
        else:
            entries[name] = key, _merged(kept[name][1] if name in kept else None, value)
    return Mapping(change.position, entries)


def _moved(node: Node, position: Position) -> Node:
    match node:
        case Mapping():
            return Mapping(
                position,
                {
                    name: (Scalar(position, key.text, key.plain), _moved(value, position))
                    for name, (key, value) in node.entries.items()
                },
            )
        case Sequence():
            return Sequence(position, [_moved(item, position) for item in node.items])
    return Scalar(position, node.text, node.plain)
