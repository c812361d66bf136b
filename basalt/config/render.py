"""Documents to text: the canonical form, and differences.

The canonical form has the documents in a fixed order, the fields in that of their types, defaults left out, and every
value in its one spelling. Two configurations mean the same exactly when their canonical forms are equal.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import yaml

from basalt.config.documents import API_VERSION, Configuration, Document
from basalt.config.redaction import redact

_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]
    """Writes a text of several lines, such as a certificate, as a block: it stays readable and can be pasted out again."""


def _text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def render(configuration: Configuration) -> bytes:
    """The canonical form. Parsing it gives *configuration* again, secrets included."""
    documents = [_builtins(document) for document in configuration.documents]
    text: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=1 << 16
    )
    return text.encode()


def diff(old: Configuration, new: Configuration, *, names: tuple[str, str] = ("current", "new")) -> str:
    """The unified difference of the canonical forms, empty when they mean the same.

    No secret is shown. One that differs shows as differing, by a tag that is good for this comparison alone: its key is
    thrown away, so that nobody can try secrets against it.
    """
    import difflib

    key = os.urandom(32)
    before, after = (
        render(redact(configuration, key)).decode().splitlines(keepends=True) for configuration in (old, new)
    )
    return "".join(difflib.unified_diff(before, after, *names))


def _builtins(document: Document) -> dict[str, Any]:
    plain = msgspec.to_builtins(document, order="deterministic")
    return {"apiVersion": API_VERSION, "kind": type(document).__name__, **plain}
