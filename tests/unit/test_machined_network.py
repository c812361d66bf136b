"""The network's decisions: which links, what should be, and the operations in between."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from msgspec import structs

from basalt.config.documents import Dns, Link, LinkMatch, NetworkConfig, Route
from machined import paths
from machined.network import model
from machined.network.desired import desired, select
from machined.network.dhcp.lease import Lease
from machined.network.kernel import split
from machined.network.model import (
    Desired,
    DesiredAddress,
    DesiredLink,
    DesiredRoute,
    Observed,
    ObservedAddress,
    ObservedLink,
    ObservedRoute,
    PutAddress,
    PutRoute,
    RemoveAddress,
    RemoveRoute,
    SetLink,
)
from machined.network.names import hosts, resolv_conf
from machined.network.plan import plan
from machined.network.view import ReachableAddress, reachable

STATIC, DHCP = paths.RTPROT_STATIC, paths.RTPROT_DHCP


def link(index: int = 2, name: str = "eth0", **more: object) -> ObservedLink:
    values: dict[str, object] = {
        "mac": f"52:54:00:00:00:{index:02x}",
        "permanent_mac": f"52:54:00:00:00:{index:02x}",
        "up": True,
        "carrier": True,
        "mtu": 1500,
        "loopback": False,
        "physical": True,
    }
    return ObservedLink(index, name, **{**values, **more})  # type: ignore[arg-type]  # a table's short hand


LO = link(1, "lo", loopback=True, physical=False, mac="00:00:00:00:00:00")
ETH0, ETH1, BRIDGE = link(2, "eth0"), link(3, "eth1"), link(4, "cni0", physical=False)


def lease(address: str = "10.0.0.5/24", **more: object) -> Lease:
    values: dict[str, object] = {
        "server": ipaddress.IPv4Address("10.0.0.1"),
        "renew_at": 50.0,
        "rebind_at": 80.0,
        "expires_at": 100.0,
        "routes": ((ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv4Address("10.0.0.1")),),
        "dns": (ipaddress.IPv4Address("10.0.0.53"),),
        "search": ("example.org",),
    }
    return Lease(ipaddress.IPv4Interface(address), **{**values, **more})  # type: ignore[arg-type]


def net(text: str) -> model.Network:
    return ipaddress.ip_network(text)


def at(text: str) -> model.Interface:
    return ipaddress.ip_interface(text)


def ip(text: str) -> model.Address:
    return ipaddress.ip_address(text)


class TestSelection:
    def test_without_a_document_every_card_asks_dhcp(self) -> None:
        selection = select(None, [LO, ETH0, ETH1, BRIDGE])
        assert [(entry.link.name, entry.wish.dhcp4) for entry in selection.managed] == [
            ("lo", False),
            ("eth0", True),
            ("eth1", True),
        ]

    def test_with_a_document_only_its_links_and_the_loopback(self) -> None:
        config = NetworkConfig(links=(Link(name="eth1", dhcp4=True), Link(name="eth9")))
        selection = select(config, [LO, ETH0, ETH1])
        assert [entry.link.name for entry in selection.managed] == ["lo", "eth1"]
        assert selection.missing == ("no link named eth9",)

    def test_a_mac_address_finds_the_card_and_not_what_is_built_on_it(self) -> None:
        vlan = structs.replace(ETH0, index=9, name="eth0.5", physical=False)
        config = NetworkConfig(links=(Link(match=LinkMatch(mac=ETH0.mac), up=True),))
        assert [entry.link.name for entry in select(config, [vlan, ETH0]).managed] == ["eth0"]
        renamed = structs.replace(ETH0, mac="02:00:00:00:00:01")  # its present address was changed
        assert len(select(config, [renamed]).managed) == 1


class TestDesired:
    def test_static_and_dhcp_on_one_link(self) -> None:
        config = NetworkConfig(
            links=(
                Link(
                    name="eth0",
                    dhcp4=True,
                    mtu=9000,
                    addresses=("192.0.2.5/24", "2001:db8::5/64"),
                    routes=(
                        Route(to="198.51.100.0/24", via="192.0.2.1", metric=5),
                        Route(to="default", via="2001:db8::1"),
                    ),
                ),
            )
        )
        want = desired(select(config, [ETH0]), {2: lease()})
        assert want.links == (DesiredLink(2, "eth0", True, 9000),)
        assert want.addresses == (
            DesiredAddress(2, at("192.0.2.5/24")),
            DesiredAddress(2, at("2001:db8::5/64")),
            DesiredAddress(2, at("10.0.0.5/24"), DHCP, 100.0),
        )
        assert want.routes == (
            DesiredRoute(2, net("198.51.100.0/24"), ip("192.0.2.1"), 5),
            DesiredRoute(2, net("::/0"), ip("2001:db8::1")),
            DesiredRoute(2, net("0.0.0.0/0"), ip("10.0.0.1"), 1026, DHCP),
        )

    def test_a_router_outside_of_the_leases_network_gets_a_route_of_its_own(self) -> None:
        want = desired(select(None, [ETH0]), {2: lease("10.0.0.5/32")})
        assert want.routes == (
            DesiredRoute(2, net("10.0.0.1/32"), None, 1026, DHCP),
            DesiredRoute(2, net("0.0.0.0/0"), ip("10.0.0.1"), 1026, DHCP),
        )

    def test_a_link_that_is_to_be_down_has_nothing(self) -> None:
        config = NetworkConfig(links=(Link(name="eth0", up=False, addresses=("192.0.2.5/24",)),))
        assert desired(select(config, [ETH0]), {2: lease()}) == Desired((DesiredLink(2, "eth0", False),))

    def test_a_lease_of_a_link_without_dhcp_is_not_used(self) -> None:
        config = NetworkConfig(links=(Link(name="eth0"),))
        assert desired(select(config, [ETH0]), {2: lease()}).addresses == ()


HAVE = ObservedAddress(2, at("192.0.2.5/24"), STATIC)
WANT = DesiredAddress(2, at("192.0.2.5/24"))
ROUTE = ObservedRoute(2, net("0.0.0.0/0"), ip("192.0.2.1"), 0, STATIC)
WANT_ROUTE = DesiredRoute(2, net("0.0.0.0/0"), ip("192.0.2.1"))


class TestPlan:
    def test_nothing_differs(self) -> None:
        observed = Observed((LO, ETH0), (HAVE,), (ROUTE,))
        assert plan(observed, Desired((DesiredLink(2, "eth0", True, 1500),), (WANT,), (WANT_ROUTE,))) == ()

    def test_new_comes_before_old_goes(self) -> None:
        """Renumbering: address and route of the new network first, then the old route, then the old address."""
        observed = Observed((ETH0,), (HAVE,), (ROUTE,))
        new_address = DesiredAddress(2, at("198.51.100.5/24"))
        new_route = DesiredRoute(2, net("0.0.0.0/0"), ip("198.51.100.1"))
        assert plan(observed, Desired((), (new_address,), (new_route,))) == (
            PutAddress(new_address),
            PutRoute(new_route),
            RemoveRoute(ROUTE),
            RemoveAddress(HAVE),
        )

    def test_up_first_down_last(self) -> None:
        down = structs.replace(ETH0, up=False)
        want = Desired((DesiredLink(2, "eth0", True, 9000), DesiredLink(3, "eth1", False)), (WANT,))
        assert plan(Observed((down, ETH1)), want) == (
            SetLink(2, "eth0", True, 9000),
            PutAddress(WANT),
            SetLink(3, "eth1", False),
        )

    def test_gateways_come_after_the_routes_that_reach_them(self) -> None:
        host = DesiredRoute(2, net("10.0.0.1/32"))
        default = DesiredRoute(2, net("0.0.0.0/0"), ip("10.0.0.1"))
        assert plan(Observed((ETH0,)), Desired((), (), (default, host))) == (PutRoute(host), PutRoute(default))
        gone = (
            ObservedRoute(2, net("10.0.0.1/32"), None, 0, DHCP),
            ObservedRoute(2, net("0.0.0.0/0"), ip("10.0.0.1"), 0, DHCP),
        )
        assert plan(Observed((ETH0,), (), gone), Desired()) == (RemoveRoute(gone[1]), RemoveRoute(gone[0]))

    @pytest.mark.parametrize("protocol", [0, 2, 3, 9, 42])
    def test_what_others_made_stays(self, protocol: int) -> None:
        observed = Observed(
            (ETH0,), (structs.replace(HAVE, protocol=protocol),), (structs.replace(ROUTE, protocol=protocol),)
        )
        assert plan(observed, Desired()) == ()
        assert (
            plan(observed, Desired((), (WANT,), (WANT_ROUTE,))) == ()
        )  # and is as good as ours where we want the same

    def test_a_renewed_lease_moves_the_lifetime_and_nothing_else(self) -> None:
        have = ObservedAddress(2, at("10.0.0.5/24"), DHCP, valid_until=100.4)
        same = DesiredAddress(2, at("10.0.0.5/24"), DHCP, 100.0)
        renewed = structs.replace(same, valid_until=150.0)
        assert plan(Observed((ETH0,), (have,)), Desired((), (same,))) == ()
        assert plan(Observed((ETH0,), (have,)), Desired((), (renewed,))) == (PutAddress(renewed),)

    def test_ipv6_default_metric_is_the_kernels(self) -> None:
        have = ObservedRoute(2, net("::/0"), ip("fe80::1"), 1024, STATIC)
        assert (
            plan(Observed((ETH0,), (), (have,)), Desired((), (), (DesiredRoute(2, net("::/0"), ip("fe80::1")),))) == ()
        )

    def test_links_that_are_gone_ask_for_nothing(self) -> None:
        assert plan(Observed((LO,)), Desired((DesiredLink(7, "eth7", True),))) == ()


def test_resolvers_of_the_configuration_come_first_and_three_are_written() -> None:
    dns = Dns(servers=("192.0.2.53", "192.0.2.54"), search=())
    assert resolv_conf(dns, [lease(), lease("10.0.1.5/24")]) == (
        "nameserver 192.0.2.53\nnameserver 192.0.2.54\nnameserver 10.0.0.53\nsearch example.org\n"
    )
    assert resolv_conf(Dns(search=("a.example",)), [lease()]) == "nameserver 10.0.0.53\nsearch a.example\n"
    assert resolv_conf(None, []) == ""
    assert "127.0.1.1 alpha\n" in hosts("alpha")


def test_addresses_shown_are_those_that_others_can_use() -> None:
    addresses = (
        ObservedAddress(1, at("127.0.0.1/8"), 0),
        HAVE,
        ObservedAddress(2, at("fe80::1/64"), 3, link_local=True),
        ObservedAddress(2, at("2001:db8::1/64"), 2, tentative=True),
        ObservedAddress(2, at("2001:db8::2/64"), 2),
        ObservedAddress(2, at("10.0.0.5/24"), DHCP),
        ObservedAddress(2, at("10.9.9.9/32"), 0),
    )
    assert reachable(Observed((LO, ETH0), addresses)) == (
        ReachableAddress("eth0", "192.0.2.5/24", "static"),
        ReachableAddress("eth0", "2001:db8::2/64", "slaac"),
        ReachableAddress("eth0", "10.0.0.5/24", "dhcp4"),
        ReachableAddress("eth0", "10.9.9.9/32", ""),
    )


def test_messages_of_the_kernel_are_split_and_nonsense_ends_it() -> None:
    def message(kind: int, sequence: int, body: bytes) -> bytes:
        whole = struct.pack("=IHHII", 16 + len(body), kind, 2, sequence, 0) + body
        return whole + bytes(-len(whole) % 4)

    data = message(16, 7, b"abcde") + message(3, 7, b"")
    assert [(kind, flags, sequence, len(body)) for kind, flags, sequence, body in split(data)] == [
        (16, 2, 7, 21),
        (3, 2, 7, 16),
    ]
    assert list(split(b"")) == []
    assert list(split(b"\0" * 64)) == []
    assert len(list(split(data + b"\1\2\3"))) == 2
