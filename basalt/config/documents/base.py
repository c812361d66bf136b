"""What every document and part of one is, and the numbers that several have."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

API_VERSION: Literal["basalt.dev/v1alpha1"] = "basalt.dev/v1alpha1"

# RFC 791 lets no IPv4 link carry less than 68 bytes; 65536 is the loopback's and the most that Linux takes.
Mtu = Annotated[int, Meta(ge=68, le=65536)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Keepalive = Annotated[int, Meta(ge=1, le=65535)]
Weight = Annotated[int, Meta(ge=1, le=10_000)]
Metric = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class Element(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A part of a document."""


class DocumentBase(Element, frozen=True, kw_only=True, tag_field="kind", tag=str):
    """A whole document."""

    api_version: Annotated[Literal["basalt.dev/v1alpha1"], Meta(description="Version of the document's format.")] = (
        API_VERSION
    )
