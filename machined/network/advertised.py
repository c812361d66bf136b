"""DNS servers and search domains from router advertisements (RFC 8106), with their lifetimes. Pure.

The kernel follows advertisements itself, but for these two options, which it only passes on (RTM_NEWNDUSEROPT in rtnetlink(7)).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator

from msgspec import Struct

from machined.network.wirenames import wire_names

_MESSAGE = struct.Struct("=BBHiBBHI")  # struct nduseroptmsg, include/uapi/linux/rtnetlink.h
_RDNSS, _DNSSL = 25, 31
_INFINITY = 0xFFFFFFFF


class Advertised(Struct, frozen=True):
    """One thing that a router said; *until* in seconds of CLOCK_BOOTTIME, None without end."""

    index: int
    server: str = ""  # an address, with its link where it means something there alone
    domain: str = ""
    until: float | None = None

    def holds(self, now: float) -> bool:
        """Whether it still counts."""
        return self.until is None or self.until > now


def parse(message: bytes, now: float, name_of: dict[int, str]) -> tuple[Advertised, ...]:
    """What a RTM_NEWNDUSEROPT message says; nothing where it makes no sense, for anybody on the link can send anything.

    :param message: without its netlink header.
    :param name_of: the links' names by index, for servers with a link-local address.
    """
    if len(message) < _MESSAGE.size:
        return ()
    _, _, length, index, _, _, _, _ = _MESSAGE.unpack_from(message)
    found: list[Advertised] = []
    for kind, body in _options(message[_MESSAGE.size : _MESSAGE.size + length]):
        if len(body) < 6:
            continue
        (lifetime,) = struct.unpack_from("!I", body, 2)
        until = None if lifetime == _INFINITY else now + lifetime
        if kind == _RDNSS:
            servers = (ipaddress.IPv6Address(body[at : at + 16]) for at in range(6, len(body) - 15, 16))
            found += [Advertised(index, server=_scoped(server, name_of.get(index)), until=until) for server in servers]
        elif kind == _DNSSL:
            found += [Advertised(index, domain=domain, until=until) for domain in wire_names(body[6:])]
    return tuple(found)


def learn(known: Iterable[Advertised], news: Iterable[Advertised], now: float) -> tuple[Advertised, ...]:
    """What is known after *news*: the newest word on each thing counts, and a lifetime of zero takes it back."""
    merged = {(entry.index, entry.server, entry.domain): entry for entry in known}
    for entry in news:
        merged[entry.index, entry.server, entry.domain] = entry
    return tuple(entry for entry in merged.values() if entry.holds(now))


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(data) and data[at + 1]:
        size = data[at + 1] * 8
        if at + size > len(data):
            return
        yield data[at], data[at + 2 : at + size]
        at += size


def _scoped(server: ipaddress.IPv6Address, link: str | None) -> str:
    return f"{server}%{link}" if server.is_link_local and link else str(server)
