"""DHCP messages to bytes and back (RFC 2131, options of RFC 2132, classless routes of RFC 3442)."""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Mapping

from msgspec import Struct, field

IPv4Address = ipaddress.IPv4Address
UNSPECIFIED = IPv4Address(0)

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST_FLAG = 0x8000
_MINIMUM_BYTES = 300  # BOOTP's; some relays drop what is shorter
_PAD, _END = 0, 255


class Kind(enum.IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


class Option(enum.IntEnum):
    """The options that are used here."""

    MASK = 1
    ROUTERS = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    NTP = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    KIND = 53
    SERVER = 54
    PARAMETERS = 55
    MESSAGE = 56
    MAXIMUM_SIZE = 57
    T1 = 58
    T2 = 59
    CLIENT_ID = 61
    CLASSLESS_ROUTES = 121


ASKED_FOR = bytes(
    (
        Option.CLASSLESS_ROUTES,  # before ROUTERS: RFC 3442 wants it first
        Option.MASK,
        Option.ROUTERS,
        Option.DNS,
        Option.DOMAIN,
        Option.NTP,
        Option.LEASE_TIME,
        Option.T1,
        Option.T2,
    )
)


class MalformedError(ValueError):
    """Not a DHCP reply that could be used."""


class Message(Struct, frozen=True):
    """A request of ours, or a server's reply."""

    kind: Kind
    transaction: int
    mac: bytes
    client: IPv4Address = UNSPECIFIED  # ciaddr: only of a client that has the address and answers under it
    offered: IPv4Address = UNSPECIFIED  # yiaddr
    options: Mapping[int, bytes] = field(default_factory=dict)
    seconds: int = 0  # since the client began to ask

    def address(self, option: Option) -> IPv4Address | None:
        """The first address in *option*."""
        return next(iter(self.addresses(option)), None)

    def addresses(self, option: Option) -> tuple[IPv4Address, ...]:
        """All addresses in *option*; a length that is no multiple of four loses its tail."""
        data = self.options.get(option, b"")
        return tuple(IPv4Address(data[at : at + 4]) for at in range(0, len(data) - 3, 4))

    def number(self, option: Option) -> int | None:
        """The number in *option*."""
        data = self.options.get(option, b"")
        return int.from_bytes(data) if len(data) == 4 else None

    def text(self, option: Option) -> str:
        """The text in *option*, without what would break a line of a file it may end up in."""
        return "".join(
            character
            for character in self.options.get(option, b"").decode("ascii", "replace")
            if character.isprintable()
        ).strip()


def encode(message: Message) -> bytes:
    """The bytes of a request."""
    header = _HEADER.pack(
        1,  # BOOTREQUEST
        1,  # Ethernet
        6,
        0,
        message.transaction,
        min(message.seconds, 0xFFFF),
        0,  # no broadcast flag: replies are caught below the IP layer, before the link has an address
        message.client.packed,
        bytes(4),
        bytes(4),
        bytes(4),
        message.mac,
        b"",
        b"",
        _COOKIE,
    )
    options = bytes((Option.KIND, 1, message.kind))
    for code, value in message.options.items():
        options += bytes((code, len(value))) + value
    return (header + options + bytes((_END,))).ljust(_MINIMUM_BYTES, b"\0")


def decode(data: bytes) -> Message:
    """Read a server's reply.

    :raises MalformedError: it is none.
    """
    if len(data) < _HEADER.size:
        raise MalformedError("shorter than a DHCP header")
    operation, _, length, _, transaction, _, _, client, offered, _, _, mac, _, _, cookie = _HEADER.unpack_from(data)
    if operation != 2 or length != 6 or cookie != _COOKIE:
        raise MalformedError("not a DHCP reply for Ethernet")
    options = _decode_options(data[_HEADER.size :])
    kind = options.get(Option.KIND, b"")
    if len(kind) != 1 or kind[0] not in set(Kind):
        raise MalformedError("no known message type")
    return Message(Kind(kind[0]), transaction, mac[:6], IPv4Address(client), IPv4Address(offered), options)


def _decode_options(data: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            raise MalformedError("an option reaches beyond the message")
        value = data[at + 2 : at + 2 + data[at + 1]]
        options[data[at]] = options.get(data[at], b"") + value  # RFC 3396: a long option comes in pieces
        at += 2 + len(value)
    return options


def classless_routes(data: bytes) -> tuple[tuple[ipaddress.IPv4Network, IPv4Address | None], ...]:
    """Option 121; router 0.0.0.0 means that the network is on the link.

    :raises MalformedError: it cannot be read.
    """
    routes = []
    at = 0
    while at < len(data):
        prefix = data[at]
        octets = -(-prefix // 8)
        if prefix > 32 or at + 1 + octets + 4 > len(data):
            raise MalformedError("classless routes are cut off")
        network = ipaddress.IPv4Network((data[at + 1 : at + 1 + octets].ljust(4, b"\0"), prefix), strict=False)
        router = IPv4Address(data[at + 1 + octets : at + 5 + octets])
        routes.append((network, router if router != UNSPECIFIED else None))
        at += 5 + octets
    return tuple(routes)
