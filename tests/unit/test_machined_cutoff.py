"""What of a change touches the way by which its caller came: the list of what would brick a node, and of what would not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import pytest
from msgspec import structs

from basalt.config import parse
from basalt.config.documents import Configuration
from machined.cutoff import Caller, cutoffs
from machined.network.model import Address
from machined.network.way import Way, WayLink, address_of, local_address, look_up

HEAD = "---\napiVersion: basalt.dev/v1alpha1\nkind: "
IP = ipaddress.ip_address

CARD = WayLink("eth0", ("52:54:00:00:00:01",))
OTHER = WayLink("eth1", ("52:54:00:00:00:02",))
NEAR = Way(IP("192.0.2.77"), CARD, local=IP("192.0.2.10"), prefix_length=24, others=(OTHER,))
FAR = Way(IP("203.0.113.9"), CARD, local=IP("192.0.2.10"), prefix_length=0, others=(OTHER,))
SIX = Way(IP("2001:db8::77"), CARD, local=IP("2001:db8::10"), prefix_length=64)


def configuration(*links: str, more: str = "") -> Configuration:
    text = f"{HEAD}MachineConfig\nhostname: n\n"
    if links:
        text += f"{HEAD}NetworkConfig\nlinks:\n" + "".join(f"- {link}\n" for link in links)
    return parse((text + more).encode(), "node.yaml")


def found(old: Configuration, new: Configuration, way: Way | None) -> list[str]:
    return list(cutoffs(old, new, Caller(way)))


DHCP = "{name: eth0, dhcp4: true}"
STATIC = "{name: eth0, addresses: [192.0.2.10/24]}"
ROUTED = "{name: eth0, addresses: [192.0.2.10/24], routes: [{to: default, via: 192.0.2.1}]}"


@pytest.mark.parametrize(
    ("old", "new", "way", "words"),
    [
        ([DHCP], [STATIC], FAR, "no longer ask for an address by DHCP"),
        ([DHCP], ["{name: eth1, dhcp4: true}"], FAR, "no longer ask for an address by DHCP"),
        ([DHCP], ["{name: eth0, dhcp4: true, up: false}"], FAR, "switched off"),
        ([DHCP], ["{name: eth0, dhcp4: true, mtu: 9000}"], FAR, "another MTU"),
        ([STATIC], ["{name: eth0, addresses: [192.0.2.11/24]}"], NEAR, "lose the address 192.0.2.10/24"),
        ([STATIC], ["{name: eth0, addresses: [192.0.2.10/28]}"], NEAR, "lose the address 192.0.2.10/24"),
        ([ROUTED], [STATIC], FAR, "a route to 0.0.0.0/0 through eth0"),
        (
            [ROUTED],
            [ROUTED, "{name: eth1, addresses: [198.51.100.2/24], routes: [{to: 203.0.113.0/24, via: 198.51.100.1}]}"],
            FAR,
            "behind a new route to 203.0.113.0/24 through eth1",
        ),
        ([ROUTED], [ROUTED, "{name: eth1, dhcp4: true}"], FAR, "link eth1 would ask for a default route by DHCP"),
        ([STATIC], ["{name: eth0}", "{name: b, bond: {links: [eth0]}, dhcp4: true}"], NEAR, "become part of b"),
        (["{name: eth0, slaac: true}"], ["{name: eth0, slaac: false}"], SIX, "no longer follow router advertisements"),
        (
            ["{match: {mac: '52:54:00:00:00:01'}, dhcp4: true}"],
            ["{match: {mac: '52:54:00:00:00:02'}, dhcp4: true}"],
            FAR,
            "no longer ask for an address by DHCP",
        ),
    ],
)
def test_what_may_cut_the_caller_off_is_named(old: list[str], new: list[str], way: Way, words: str) -> None:
    reasons = found(configuration(*old), configuration(*new), way)
    assert any(words in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("old", "new", "way"),
    [
        ([DHCP], [DHCP, "{name: eth1, addresses: [198.51.100.2/24]}"], FAR),
        ([DHCP], ["{name: eth0, dhcp4: true, addresses: [198.51.100.2/24]}"], FAR),
        # Another address than the one that the caller speaks to, in another network than the caller's.
        (["{name: eth0, addresses: [192.0.2.10/24, 198.51.100.2/24]}"], [STATIC], NEAR),
        (["{name: eth0, addresses: [192.0.2.10/24, '2001:db8::2/64']}"], [STATIC], NEAR),
        ([DHCP], ["{name: eth0, dhcp4: true, slaac: false}"], FAR),
        ([ROUTED], [ROUTED, "{name: eth1, routes: [{to: 198.51.100.0/24}]}"], FAR),
        ([STATIC, "{name: eth1, dhcp4: true}"], [STATIC], NEAR),
        # Somebody at the node itself, and a unix socket: nothing of the network carries them.
        ([DHCP], [STATIC], structs.replace(NEAR, loopback=True)),
        ([DHCP], [STATIC], None),
    ],
)
def test_what_takes_nothing_from_the_caller_does_not_count(old: list[str], new: list[str], way: Way | None) -> None:
    assert found(configuration(*old), configuration(*new), way) == []


def test_an_address_counts_where_it_is_not_known_which_one_the_caller_speaks_to() -> None:
    old = configuration("{name: eth0, addresses: [192.0.2.10/24, 198.51.100.2/24]}")
    assert found(old, configuration(STATIC), structs.replace(NEAR, local=None))


def test_links_below_the_one_that_is_spoken_to_count() -> None:
    bond = "{name: b, bond: {links: [eth0]}, addresses: [192.0.2.10/24]}"
    way = structs.replace(NEAR, link=WayLink("b", physical=False), below=(CARD,))
    reasons = found(configuration(bond), configuration(bond, "{name: eth0, up: false}"), way)
    assert any("eth0" in reason and "switched off" in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("firewall", "cut"),
    [
        ("apiSources: [192.0.2.0/24]", False),
        ("apiSources: [198.51.100.0/24]", True),
        ("apiSources: ['2001:db8::/32']", True),
        ("rules: [{name: a, ports: ['8080'], sources: [198.51.100.0/24]}]", False),
        ("ping: false", False),
    ],
)
def test_firewall_that_shuts_the_caller_out(firewall: str, cut: bool) -> None:
    reasons = found(configuration(), configuration(more=f"{HEAD}FirewallConfig\n{firewall}\n"), NEAR)
    assert bool(reasons) is cut, reasons


def test_a_way_that_is_not_known_counts_for_the_network_and_not_for_the_hostname() -> None:
    caller = Caller(way_problem="no route")
    assert list(cutoffs(configuration(DHCP), configuration(STATIC), caller))
    renamed = parse(f"{HEAD}MachineConfig\nhostname: m\n".encode(), "node.yaml")
    assert not list(cutoffs(configuration(), renamed, caller))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1:4711", IP("192.0.2.1")),
        ("[2001:db8::1]:4711", IP("2001:db8::1")),
        ("[fe80::1%eth0]:4711", IP("fe80::1")),
        ("[::ffff:192.0.2.1]:4711", IP("192.0.2.1")),
        ("unix:", None),
        ("", None),
    ],
)
def test_address_of_a_caller(peer: str, address: Address | None) -> None:
    assert address_of(peer) == address


@pytest.mark.parametrize("server", [("127.0.0.1", socket.AF_INET), ("::", socket.AF_INET6)])
def test_way_of_a_real_connection(server: tuple[str, int]) -> None:
    """By the kernel's own tables, with IPv4 callers of a socket for both families among them."""
    host, family = server
    dual = family == socket.AF_INET6
    with (
        socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as listening,
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as client,
    ):
        peer = f"127.0.0.1:{client.getsockname()[1]}"
        assert local_address(peer, Path("/proc")) == IP("127.0.0.1")
        way = asyncio.run(look_up(peer, Path("/proc")))
    assert way is not None and way.loopback and way.local == IP("127.0.0.1")


def test_no_connection_no_address() -> None:
    assert local_address("192.0.2.1:1", Path("/proc")) is None
