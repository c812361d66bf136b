"""Documents to text: the canonical form, copies without secrets, and differences.

The canonical form has the documents in a fixed order, the fields in that of their types, defaults left out, and every
value in its one spelling. Two configurations mean the same exactly when their canonical forms are equal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from basalt.config.documents import API_VERSION, Configuration, Document
from basalt.config.types import fields_of, plain
from basalt.config.values import REDACTED, SECRET

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def render(configuration: Configuration) -> bytes:
    """The canonical form. Parsing it gives *configuration* again, secrets included."""
    documents = [_builtins(document) for document in configuration.documents]
    text: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=1 << 16
    )
    return text.encode()


def redact(configuration: Configuration) -> Configuration:
    """A copy in which every secret reads ``[redacted]``. It is for reading: parsing it again is refused."""
    return redact_struct(configuration, lambda _: REDACTED)


def diff(old: Configuration, new: Configuration, *, names: tuple[str, str] = ("current", "new")) -> str:
    """The unified difference of the canonical forms, empty when they mean the same.

    No secret is shown. One that differs shows as differing, by a tag that is good for this comparison alone: its key is
    thrown away, so that nobody can try secrets against it.
    """
    import difflib

    key = os.urandom(32)

    def tag(secret: str) -> str:
        return f"[redacted {hashlib.blake2s(secret.encode(), key=key, digest_size=4).hexdigest()}]"

    before, after = (
        render(redact_struct(configuration, tag)).decode().splitlines(keepends=True) for configuration in (old, new)
    )
    return "".join(difflib.unified_diff(before, after, *names))


def _builtins(document: Document) -> dict[str, Any]:
    plain = msgspec.to_builtins(document, order="deterministic")
    return {"apiVersion": API_VERSION, "kind": type(document).__name__, **plain}


def redact_struct(value: _Kind, mask: Callable[[str], str]) -> _Kind:
    """A copy of *value* in which *mask* replaced every text whose type is marked as a secret."""
    changes = {field.name: _masked(getattr(value, field.name), field.type, mask) for field in fields_of(type(value))}
    return msgspec.structs.replace(value, **changes)


def _masked(value: Any, annotated: inspect.Type, mask: Callable[[str], str]) -> Any:
    kind, extra = plain(annotated)
    match value:
        case msgspec.Struct():
            return redact_struct(value, mask)
        case tuple() if isinstance(kind, inspect.VarTupleType):
            return tuple(_masked(item, kind.item_type, mask) for item in value)
        case dict() if isinstance(kind, inspect.DictType):
            return {name: _masked(item, kind.value_type, mask) for name, item in value.items()}
        case str() if extra.get(SECRET):
            return mask(value)
    return value
