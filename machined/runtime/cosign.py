"""cosign's signatures as they lie in a registry (https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md). Pure.

Beside an image there is a manifest with the tag ``sha256-DIGEST.sig``. Each of its layers is a *payload*, which says what was signed, and
an annotation of the layer is the signature on the payload's bytes.
"""

from __future__ import annotations

import base64

import msgspec
from msgspec import Struct, field

from basalt.reference import DIGEST

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
PAYLOAD_TYPE = "cosign container image signature"
PAYLOAD_BYTES_MAX = 64 * 1024  # one has 250 bytes and what the signer noted besides
SIGNATURES_MAX = 64  # that are looked at, the newest: cosign adds them at the end


class Signature(Struct, frozen=True):
    """One signature as the manifest has it: *value* is said to be on the blob *payload*."""

    payload: str
    value: bytes


class _Layer(Struct, frozen=True, rename="camel"):
    media_type: str = ""
    digest: str = ""
    annotations: dict[str, str] | None = None


class _Manifest(Struct, frozen=True):
    layers: tuple[_Layer, ...]


class _Image(Struct, frozen=True):
    digest: str = field(name="docker-manifest-digest")


class _Critical(Struct, frozen=True):  # its identity is ignored, as the specification has it
    image: _Image
    type: str


class _Payload(Struct, frozen=True):
    critical: _Critical


def signatures_in(manifest: bytes) -> list[Signature]:
    """The signatures that a ``.sig`` manifest names; the newest :data:`SIGNATURES_MAX`.

    :raises ValueError: it is none.
    """
    try:
        layers = msgspec.json.decode(manifest, type=_Manifest).layers
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no manifest: {error}") from error
    found, broken = [], ""
    for layer in layers:
        text = (layer.annotations or {}).get(SIGNATURE, "")
        if layer.media_type != SIMPLE_SIGNING or not text:
            continue
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            broken = "the base64 of a signature is broken"
            continue
        if DIGEST.fullmatch(layer.digest) is None:  # it becomes a part of an address
            broken = "the digest of what was signed is none"
            continue
        found.append(Signature(layer.digest, value))
    if broken and not found:  # what is in order counts, whatever else was put there
        raise ValueError(broken)
    return found[-SIGNATURES_MAX:]


def claimed(payload: bytes) -> str:
    """The digest of the image that a payload is about. Only for one whose signature was verified.

    :raises ValueError: it is no payload of a signature on an image.
    """
    try:
        critical = msgspec.json.decode(payload, type=_Payload).critical
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no payload: {error}") from error
    if critical.type != PAYLOAD_TYPE:
        raise ValueError(f"it is of the type {critical.type!r}")
    return critical.image.digest


def signature_tag(digest: str) -> str:
    """Where cosign puts the signatures on *digest*."""
    return f"{digest.replace(':', '-')}.sig"
