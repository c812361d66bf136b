"""DNS from router advertisements: what is read, how long it holds, and what nonsense does."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest

from machined.network.advertised import Advertised, learn, parse
from machined.network.names import resolv_conf
from machined.network.wirenames import wire_names

NAMES = {2: "eth0"}


def message(options: bytes, index: int = 2) -> bytes:
    return struct.pack("=BBHiBBHI", 10, 0, len(options), index, 134, 0, 0, 0) + options


def rdnss(lifetime: int, *servers: str) -> bytes:
    body = struct.pack("!HI", 0, lifetime) + b"".join(ipaddress.IPv6Address(server).packed for server in servers)
    return bytes((25, (len(body) + 2) // 8)) + body


def dnssl(lifetime: int, *domains: str) -> bytes:
    names = b"".join(
        b"".join(bytes((len(label),)) + label.encode() for label in domain.split(".")) + b"\0" for domain in domains
    )
    body = struct.pack("!HI", 0, lifetime) + names + bytes(-len(names) % 8)
    return bytes((31, (len(body) + 2) // 8)) + body


def test_servers_and_domains_are_read() -> None:
    said = parse(
        message(rdnss(600, "2001:db8::53", "fe80::1") + dnssl(0xFFFFFFFF, "example.org", "b.test")), 10.0, NAMES
    )
    assert said == (
        Advertised(2, server="2001:db8::53", until=610.0),
        Advertised(2, server="fe80::1%eth0", until=610.0),
        Advertised(2, domain="example.org"),
        Advertised(2, domain="b.test"),
    )
    assert resolv_conf(None, [], said) == (
        "nameserver 2001:db8::53\nnameserver fe80::1%eth0\nsearch example.org b.test\n"
    )


def test_lifetimes() -> None:
    first = learn((), parse(message(rdnss(600, "2001:db8::53")), 0.0, NAMES), 0.0)
    renewed = learn(first, parse(message(rdnss(600, "2001:db8::53")), 500.0, NAMES), 500.0)
    assert [entry.until for entry in renewed] == [1100.0]
    assert learn(renewed, (), 1000.0) == renewed
    assert learn(renewed, (), 1100.0) == ()
    assert learn(first, parse(message(rdnss(0, "2001:db8::53")), 1.0, NAMES), 1.0) == ()  # taken back


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"\x19\x00" + bytes(30),
        b"\x19\x09" + bytes(6),
        b"\x19\x01" + bytes(6),
        b"\x1f\x02\0\0\0\0\0\x09" + b"\xff" * 8,
    ],
)
def test_nonsense_says_nothing(options: bytes) -> None:
    assert parse(message(options), 0.0, NAMES) == ()


def test_no_name_breaks_a_line_of_a_file() -> None:
    assert list(wire_names(b"\x03a b\x00")) == []
    assert list(wire_names(b"\x04ok\nx\x00")) == []
    assert list(wire_names(b"\x02ok\x00\x00\x00\x03a.b\x00")) == ["ok"]
    assert list(wire_names(b"\x02OK\x04Test")) == []  # no end


def test_any_bytes_are_survived() -> None:
    noise = random.Random(8106)
    for _ in range(2000):
        parse(noise.randbytes(noise.randrange(80)), 0.0, NAMES)
        parse(message(noise.randbytes(noise.randrange(80))), 0.0, NAMES)
