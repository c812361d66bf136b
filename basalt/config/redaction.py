"""Secrets: copies of a configuration without them, and back.

What is a secret stands in the types (:data:`basalt.config.values.Secret`); nothing here knows a field by its name. A copy for
reading shows ``[redacted]``. With a key each secret has a tag, ``[redacted 1f09c24a]``: a copy that was edited can then be
applied, because :func:`basalt.config.parse` puts the secret with that tag back. The key never leaves the node, so a tag lets
nobody try secrets against it, and it tells two secrets of one node apart, no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from basalt.config.documents import Configuration
from basalt.config.types import List, Part, Shape, Table, Text, fields_of, may_be_secret
from basalt.config.values import REDACTED

# What stands for a secret: REDACTED, or that with a tag. No secret may read like this.
PLACEHOLDER = re.compile(r"\[redacted(?: ([^\]]*))?\]")
_TAG_BYTES = 4

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def redact(configuration: Configuration, key: bytes | None = None) -> Configuration:
    """A copy without secrets.

    :param key: 1 to 32 bytes; each secret then reads ``[redacted <tag>]``. Without one it reads ``[redacted]``, and the copy is
        for reading alone: parsing it again is refused.
    """
    return redact_struct(configuration, lambda secret: placeholder(secret, key) if key is not None else REDACTED)


def placeholder(secret: str, key: bytes) -> str:
    """What a copy made with *key* shows for *secret*."""
    return f"[redacted {_tag(secret, key)}]"


def secrets_of(configuration: Configuration, key: bytes) -> dict[str, str]:
    """Every secret by its tag: what :func:`basalt.config.parse` needs to read a copy that :func:`redact` made with *key*.

    Two secrets that happen to have one tag are both left out: their placeholders are then refused, never mistaken.
    """
    found: dict[str, set[str]] = {}

    def note(secret: str) -> str:
        found.setdefault(_tag(secret, key), set()).add(secret)
        return secret

    redact_struct(configuration, note)
    return {tag: next(iter(secrets)) for tag, secrets in found.items() if len(secrets) == 1}


def _tag(secret: str, key: bytes) -> str:
    import hashlib  # brings OpenSSL, which the node's start does not need

    return hashlib.blake2s(secret.encode(), key=key, digest_size=_TAG_BYTES).hexdigest()


def redact_struct(value: _Kind, mask: Callable[[str], str]) -> _Kind:
    """A copy of *value* in which *mask* replaced every text whose type is marked as a secret."""
    changes = {
        field.name: _masked(getattr(value, field.name), field.shape, mask)
        for field in fields_of(type(value)).values()
        if may_be_secret(field.shape)
    }
    return msgspec.structs.replace(value, **changes)


def _masked(value: Any, shape: Shape, mask: Callable[[str], str]) -> Any:
    if value is None:
        return None
    match shape:
        case Part():
            return redact_struct(value, mask)
        case List():
            return tuple(_masked(item, shape.item, mask) for item in value)
        case Table():
            return {name: _masked(item, shape.value, mask) for name, item in value.items()}
        case Text(secret=True):
            return mask(value)
    return value
