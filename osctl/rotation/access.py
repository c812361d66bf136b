"""Authorities in a node's AccessConfig. Pure: documents in, documents out; redacted secrets stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from basalt import config, pki
from basalt.config.documents import AccessConfig

Change = Callable[[tuple[str, ...]], tuple[str, ...]]


def authorities_of(documents: bytes, fallback: str) -> tuple[str, ...]:
    """The client authorities (PEM) that *documents* name.

    :param fallback: the one in force where they name none: that of the first contact.
    """
    access = _parse(documents).access
    return (fallback,) if access is None else access.client_authorities


def with_authorities(documents: bytes, authorities: tuple[str, ...]) -> bytes:
    """*documents* with these client authorities; everything else stays."""
    configuration = _parse(documents)
    if configuration.access is None:
        access = AccessConfig(client_authorities=authorities)
    else:
        access = msgspec.structs.replace(configuration.access, client_authorities=authorities)
    return config.render(msgspec.structs.replace(configuration, access=access))


def added(authorities: tuple[str, ...], new: str) -> tuple[str, ...]:
    """*authorities* with *new*, once."""
    return (*removed(authorities, new), new)


def removed(authorities: tuple[str, ...], old: str) -> tuple[str, ...]:
    """*authorities* without *old*, however its text is wrapped."""
    return tuple(pem for pem in authorities if not same(pem, old))


def same(one: str, other: str) -> bool:
    """Whether two texts (PEM) are one certificate."""
    return pki.pem_to_der(one.encode()) == pki.pem_to_der(other.encode())


def _parse(documents: bytes) -> config.Configuration:
    return config.parse(documents, "the node's configuration", accept_placeholders=True)
