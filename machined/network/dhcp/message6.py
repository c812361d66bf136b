"""DHCPv6 messages to bytes and back (RFC 8415), as far as a client for one address needs them."""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterator

from msgspec import Struct

from machined.network.dhcp.message import MalformedError
from machined.network.wirenames import wire_names

_OPTION = struct.Struct("!HH")
_IA_NA = struct.Struct("!III")  # IAID, T1, T2
_IA_ADDRESS = struct.Struct("!16sII")  # address, preferred and valid lifetime
_DUID_UUID = 4  # RFC 6355

SUCCESS = 0


class Kind6(enum.IntEnum):
    """Message types, section 7.3."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9


class Option6(enum.IntEnum):
    """The options that are used here (section 21; DNS of RFC 3646)."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_ADDRESS = 5
    REQUESTED = 6
    PREFERENCE = 7
    ELAPSED = 8
    STATUS = 13
    DNS = 23
    DOMAINS = 24


ASKED_FOR = struct.pack("!HH", Option6.DNS, Option6.DOMAINS)


class Granted(Struct, frozen=True):
    """What a server says about the address: lifetimes in seconds; *status* as in section 21.13."""

    status: int
    address: ipaddress.IPv6Address | None = None
    preferred_s: int = 0
    valid_s: int = 0
    renew_s: int = 0
    rebind_s: int = 0


class Message6(Struct, frozen=True):
    """A message. Options that come several times are all kept, in order."""

    kind: Kind6
    transaction: int  # 24 bits
    options: tuple[tuple[int, bytes], ...] = ()

    def option(self, code: Option6) -> bytes | None:
        """The first option of that code."""
        return next((value for found, value in self.options if found == code), None)

    @property
    def status(self) -> int:
        """The status of the whole message; success where it names none."""
        return _status(self.option(Option6.STATUS))

    def addresses(self, code: Option6) -> tuple[ipaddress.IPv6Address, ...]:
        """The addresses in an option."""
        data = self.option(code) or b""
        return tuple(ipaddress.IPv6Address(data[at : at + 16]) for at in range(0, len(data) - 15, 16))

    def domains(self) -> tuple[str, ...]:
        """The search list, without what would be no name in a file that it ends up in."""
        return tuple(wire_names(self.option(Option6.DOMAINS) or b""))

    def granted(self, association: int) -> Granted | None:
        """What it says about the address of *association* (IAID); None where it says nothing."""
        for code, data in self.options:
            if code != Option6.IA_NA or len(data) < _IA_NA.size:
                continue
            found, renew, rebind = _IA_NA.unpack_from(data)
            if found == association:
                return _granted(dict(_options(data[_IA_NA.size :])), renew, rebind)
        return None


def _granted(inner: dict[int, bytes], renew: int, rebind: int) -> Granted:
    status = _status(inner.get(Option6.STATUS))
    data = inner.get(Option6.IA_ADDRESS, b"")
    if len(data) < _IA_ADDRESS.size:
        return Granted(status)
    packed, preferred, valid = _IA_ADDRESS.unpack_from(data)
    own = dict(_options(data[_IA_ADDRESS.size :]))
    return Granted(
        status or _status(own.get(Option6.STATUS)), ipaddress.IPv6Address(packed), preferred, valid, renew, rebind
    )


def duid(machine_id: str) -> bytes:
    """Who the client is, from 32 hexadecimal digits that stay with the node (DUID-UUID, RFC 6355)."""
    return struct.pack("!H", _DUID_UUID) + bytes.fromhex(machine_id)


def association_option(association: int, address: ipaddress.IPv6Address | None = None) -> bytes:
    """The value of an IA_NA option: a wish for an address, or for this one."""
    value = _IA_NA.pack(association, 0, 0)
    if address is not None:
        value += _OPTION.pack(Option6.IA_ADDRESS, _IA_ADDRESS.size) + _IA_ADDRESS.pack(address.packed, 0, 0)
    return value


def encode6(message: Message6) -> bytes:
    """The bytes of a message."""
    options = b"".join(_OPTION.pack(code, len(value)) + value for code, value in message.options)
    return bytes((message.kind,)) + message.transaction.to_bytes(3) + options


def decode6(data: bytes) -> Message6:
    """Read a message.

    :raises MalformedError: it is none.
    """
    if len(data) < 4 or data[0] not in set(Kind6):
        raise MalformedError("no known message type")
    return Message6(Kind6(data[0]), int.from_bytes(data[1:4]), tuple(_options(data[4:])))


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if at + _OPTION.size > len(data):
            raise MalformedError("an option is cut off")
        code, length = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        if at + length > len(data):
            raise MalformedError("an option reaches beyond the message")
        yield code, data[at : at + length]
        at += length


def _status(value: bytes | None) -> int:
    return int.from_bytes(value[:2]) if value and len(value) >= 2 else SUCCESS
