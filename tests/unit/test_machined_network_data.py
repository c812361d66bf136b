"""OpenStack's network_data.json becomes a NetworkConfig, or a list of what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from basalt.config import parse, render
from basalt.config.documents import Configuration, NetworkConfig
from machined.sources.network_data import network_config

ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"
NAMES = {ONE: "eth0", TWO: "eth1"}


def card(name: str, mac: str = ONE, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "phy", "ethernet_mac_address": mac, "mtu": None, **more}


def read(links: list[dict[str, Any]], networks: list[dict[str, Any]], services: Any = ()) -> NetworkConfig:
    data = json.dumps({"links": links, "networks": networks, "services": list(services)})
    found = network_config(data.encode(), NAMES)
    assert parse(render(Configuration(network=found)), "check").network == found, "it is valid as a document"
    return found


def test_card_is_found_by_its_address() -> None:
    (link,) = read([card("tap0", ONE, mtu=1450)], [{"link": "tap0", "type": "ipv4_dhcp"}]).links
    assert link.match and link.match.mac == ONE
    assert (link.mtu, link.dhcp4, link.dhcp6, link.slaac) == (1450, True, False, False)


def test_static_addresses_routes_and_dns() -> None:
    networks = [
        {
            "link": "a",
            "type": "ipv4",
            "ip_address": "192.0.2.10",
            "netmask": "255.255.255.0",
            "routes": [
                {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"},
                {"network": "198.51.100.0", "netmask": "255.255.255.0", "gateway": "192.0.2.2"},
            ],
            "services": [{"type": "dns", "address": "192.0.2.53"}],
        },
        {
            "link": "a",
            "type": "ipv6",
            "ip_address": "2001:db8::10",
            "netmask": "ffff:ffff:ffff:ffff::",
            "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}],
        },
    ]
    services = [{"type": "dns", "address": f"192.0.2.{n}"} for n in (53, 54, 55, 56)]
    found = read([card("a")], networks, services)
    assert found.links[0].addresses == ("192.0.2.10/24", "2001:db8::10/64")
    assert [(route.to, route.via) for route in found.links[0].routes] == [
        ("default", "192.0.2.1"),
        ("198.51.100.0/24", "192.0.2.2"),
        ("default", "2001:db8::1"),
    ]
    assert found.dns.servers == ("192.0.2.53", "192.0.2.54", "192.0.2.55"), "the resolver reads three"


def test_bond_and_vlan_lie_on_cards_by_name() -> None:
    links = [
        card("a"),
        card("b", TWO),
        {
            "id": "b0",
            "type": "bond",
            "bond_links": ["a", "b"],
            "bond_mode": "802.3ad",
            "bond_miimon": 50,
            "bond_xmit_hash_policy": "layer3+4",
            "ethernet_mac_address": ONE,
        },
        {"id": "v", "type": "vlan", "vlan_link": "b0", "vlan_id": 101, "vlan_mac_address": ONE},
    ]
    networks = [{"link": "v", "type": "ipv4", "ip_address": "192.0.2.1/24", "netmask": "255.255.255.0"}]
    first, second, bond, vlan = read(links, networks).links
    assert (first.name, second.name, bond.name, vlan.name) == ("eth0", "eth1", "bond0", "bond0.101")
    assert bond.bond and bond.bond.links == ("eth0", "eth1") and bond.bond.mode == "802.3ad"
    assert (bond.bond.monitor_interval_ms, bond.bond.transmit_hash) == (50, "layer3+4")
    assert vlan.vlan and (vlan.vlan.link, vlan.vlan.id) == ("bond0", 101)
    assert vlan.addresses == ("192.0.2.1/24",)


@pytest.mark.parametrize(
    ("kind", "dhcp6", "slaac"),
    [
        ("ipv6_dhcp", True, True),
        ("ipv6_dhcpv6-stateful", True, True),
        ("ipv6_slaac", False, True),
        ("ipv6_dhcpv6-stateless", False, True),
    ],
)
def test_kinds_of_ipv6(kind: str, dhcp6: bool, slaac: bool) -> None:
    (link,) = read([card("a")], [{"link": "a", "type": kind}]).links
    assert (link.dhcp6, link.slaac) == (dhcp6, slaac)


@pytest.mark.parametrize(
    ("links", "networks", "said"),
    [
        ([], [{"link": "a", "type": "ipv4_dhcp"}], "unknown link 'a'"),
        ([card("a")], [{"link": "a", "type": "token-ring"}], "unknown type 'token-ring'"),
        ([{"id": "a", "type": "phy"}], [], "no MAC address"),
        ([{"id": "v", "type": "vlan", "vlan_link": "x", "vlan_id": 5}], [], "no card and no bond"),
        ([{"id": "b", "type": "bond", "bond_links": ["x"]}], [], "no link 'x'"),
        (
            [card("a", "52:54:00:00:00:09"), {"id": "b", "type": "bond", "bond_links": ["a"]}],
            [],
            "no card with the MAC",
        ),
        (
            [card("a")],
            [{"link": "a", "type": "ipv4", "ip_address": "192.0.2.300", "netmask": "255.0.0.0"}],
            "address on",
        ),
        ("links", [], "not network data"),
    ],
)
def test_what_is_wrong_is_told(links: Any, networks: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network_config(json.dumps({"links": links, "networks": networks}).encode(), NAMES)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"links": [null]}', b'{"networks": 1}'])
def test_what_is_no_network_data_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="not network data"):
        network_config(data, NAMES)
