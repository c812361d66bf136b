"""Where the authority for the first contact comes from, and why that one.

The first source that has one wins: STATE (pinned when the first configuration was applied), the image, QEMU's fw_cfg. Later sources
cannot override earlier ones: a hypervisor that is talked into another fw_cfg entry does not take over a node that is in use. A
source that is damaged is reported and passed over, except STATE: a pinned authority that cannot be read locks the node, because
falling back to another would hand it to whoever can damage the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from basalt.errors import BasaltError
from basalt.files import write_atomic
from basalt.pki import pem_to_der
from machined.paths import Paths

PINNED_NAME = "client-ca.pem"


class Source(Struct, frozen=True):
    """A place that may hold an authority."""

    name: str  # for people
    path: Path
    final: bool = False  # when it is there but unusable, no later source is asked


class Authority(Struct, frozen=True):
    """The authority found. *pem* is empty when there is none; *provenance* says for each source what came of it."""

    pem: bytes
    source: str
    provenance: tuple[str, ...]
    damaged: bool = False


def sources(node: Paths) -> tuple[Source, ...]:
    """The sources in their order."""
    return (
        Source("STATE", node.trust / PINNED_NAME, final=True),
        Source("the image", node.image_client_ca),
        Source("fw_cfg opt/basalt/client-ca", node.fw_cfg_client_ca),
    )


def find_authority(candidates: Iterable[Source]) -> Authority:
    """Ask the sources in order."""
    provenance: list[str] = []
    found: Authority | None = None
    for source in candidates:
        if found:
            provenance.append(f"{source.name}: not asked, {found.source} came first")
            continue
        try:
            pem = source.path.read_bytes()
        except FileNotFoundError:
            provenance.append(f"{source.name}: none")
            continue
        except OSError as error:
            provenance.append(f"{source.name}: cannot be read: {error}")
            pem = b""
        problem = (_damage(pem) if source.final else _problem(pem, source.name)) if pem else "it is empty"
        if not problem:
            found = Authority(pem, source.name, ())
            provenance.append(f"{source.name}: used")
        elif source.final:
            return Authority(
                b"", source.name, (*provenance, f"{source.name}: {problem}; no other source may replace it"), True
            )
        else:
            provenance.append(f"{source.name}: {problem}")
    return Authority(found.pem if found else b"", found.source if found else "", tuple(provenance))


def _damage(pem: bytes) -> str:
    """Why a pinned authority cannot be read; empty when it can. It was judged in full when it was pinned: reading its frame is
    enough, and spares every boot the import of cryptography.
    """
    try:
        pem_to_der(pem)
    except BasaltError as error:
        return str(error)
    return ""


def _problem(pem: bytes, name: str) -> str:
    """Why *pem* is no client authority; empty when it is one. Dates are not judged: the clock may be the one that is wrong."""
    from basalt.pki_checks import load_client_authorities

    try:
        load_client_authorities(pem, name)
    except BasaltError as error:
        return str(error)
    return ""


def pin(node: Paths, pem: bytes) -> None:
    """Keep *pem* on STATE; from now on no other source is asked.

    :raises OSError: it could not be written.
    """
    node.trust.mkdir(mode=0o700, exist_ok=True)
    write_atomic(node.trust / PINNED_NAME, pem, mode=0o600)
