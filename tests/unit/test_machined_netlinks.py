"""Links that the node makes, as decisions: what is wanted on the links that are there, and the operations, floor by floor."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from basalt.config.documents import Bond, Bridge, Link, LinkMatch, NetworkConfig, Vlan, Wireguard
from machined.network.carrier import no_carrier
from machined.network.desired import desired, select
from machined.network.model import (
    BondTraits,
    BridgeTraits,
    ChangeLink,
    DeleteLink,
    Enslave,
    MakeLink,
    Observed,
    ObservedLink,
    Operation,
    Release,
    RemoveAddress,
    RemoveRoute,
    SetLink,
    Traits,
    VlanTraits,
    WireguardTraits,
)
from machined.network.plan import plan
from machined.network.stack import stack


def card(index: int, name: str, **more: object) -> ObservedLink:
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


def made(index: int, name: str, traits: Traits, **more: object) -> ObservedLink:
    return card(index, name, physical=False, ours=True, traits=traits, **more)


ETH0, ETH1, ETH2 = card(2, "eth0"), card(3, "eth1"), card(4, "eth2")
BOND = BondTraits("active-backup", 100, 0, 0)


def operations(config: NetworkConfig, *links: ObservedLink) -> tuple[Operation, ...]:
    return plan(Observed(links), desired(select(config, links), {}), stack(config, links))


class Kernel:
    """Applies link operations to a table of links: enough to see whether plans converge. Not the kernel, which the node tests use."""

    def __init__(self, *links: ObservedLink) -> None:
        self.links = {link.name: link for link in links}
        self._next = 20

    def apply(self, operation: Operation) -> None:
        match operation:
            case MakeLink(name, traits, mtu):
                assert name not in self.links
                if isinstance(traits, VlanTraits):
                    assert traits not in [link.traits for link in self.links.values()]
                parent = traits.parent if isinstance(traits, VlanTraits) else 0
                self.links[name] = made(self._next, name, traits, up=False, mtu=mtu or 1500, parent=parent)
                self._next += 1
            case DeleteLink(index, name):
                self._delete(index, name)
            case ChangeLink(_, name, traits):
                self.links[name] = structs.replace(self.links[name], traits=traits)
            case Enslave(_, name, master):
                assert master in {link.index for link in self.links.values()}
                self.links[name] = structs.replace(self.links[name], master=master, up=True)
            case Release(_, name):
                self.links[name] = structs.replace(self.links[name], master=0)
            case SetLink(_, name, up, mtu) if name in self.links:
                have = self.links[name]
                self.links[name] = structs.replace(have, up=have.up if up is None else up, mtu=mtu or have.mtu)
            case _:
                pass

    def _delete(self, index: int, name: str) -> None:
        if name not in self.links or self.links[name].index != index:
            return
        del self.links[name]
        for link in list(self.links.values()):
            if link.parent == index:
                self._delete(link.index, link.name)
            elif link.master == index:
                self.links[link.name] = structs.replace(link, master=0)

    def settle(self, config: NetworkConfig) -> list[tuple[Operation, ...]]:
        rounds: list[tuple[Operation, ...]] = []
        for _ in range(10):
            todo = operations(config, *self.links.values())
            if not todo:
                return rounds
            rounds.append(todo)
            for operation in todo:
                self.apply(operation)
        raise AssertionError(f"no rest: {rounds[-1]}")


STACK = NetworkConfig(
    links=(
        Link(name="br0", bridge=Bridge(links=("lan5",))),  # over a VLAN, over a bond, over cards; listed from the top
        Link(name="lan5", vlan=Vlan(link="bond0", id=5)),
        Link(name="bond0", bond=Bond(links=("eth1", "eth2"))),
        Link(name="wg0", wireguard=Wireguard()),
    )
)


def test_a_stack_converges_from_nothing() -> None:
    kernel = Kernel(ETH0, ETH1, ETH2)
    assert len(kernel.settle(STACK)) <= 5
    links = kernel.links
    assert links["lan5"].traits == VlanTraits(links["bond0"].index, 5, "802.1q")
    assert links["lan5"].master == links["br0"].index
    assert links["eth1"].master == links["eth2"].master == links["bond0"].index
    assert all(link.up for link in links.values())
    assert kernel.settle(STACK) == []


def test_a_stack_converges_from_any_part_of_itself() -> None:
    whole = Kernel(ETH0, ETH1, ETH2)
    whole.settle(STACK)
    names = [name for name in whole.links if whole.links[name].ours]
    for missing in range(1, 2 ** len(names)):
        kernel = Kernel(*whole.links.values())
        for bit, name in enumerate(names):
            if missing & 1 << bit and name in kernel.links:
                kernel.apply(DeleteLink(kernel.links[name].index, name))
        kernel.settle(STACK)
        assert set(kernel.links) == set(whole.links)
        assert kernel.links["lan5"].master == kernel.links["br0"].index


def test_what_is_taken_out_goes_and_only_what_is_ours() -> None:
    kernel = Kernel(ETH0, ETH1, ETH2, card(9, "cni0", physical=False, kind="bridge"))
    kernel.settle(STACK)
    kernel.settle(NetworkConfig(links=(Link(name="eth0"),)))
    assert set(kernel.links) == {"eth0", "eth1", "eth2", "cni0"}


def test_links_taken_out_go_after_everything_new_is_there() -> None:
    old = made(9, "lan5", VlanTraits(2, 5, "802.1q"))
    config = NetworkConfig(links=(Link(name="lan6", vlan=Vlan(link="eth0", id=6)),))
    todo = operations(config, ETH0, old)
    assert todo[0] == MakeLink("lan6", VlanTraits(2, 6, "802.1q")) and todo[-1] == DeleteLink(9, "lan5")


def test_a_vlan_under_a_new_name_replaces_the_old_one_first() -> None:
    old = made(9, "lan5", VlanTraits(2, 5, "802.1q"))
    config = NetworkConfig(links=(Link(name="storage", vlan=Vlan(link="eth0", id=5)),))
    assert operations(config, ETH0, old)[:2] == (DeleteLink(9, "lan5"), MakeLink("storage", old.traits))  # type: ignore[arg-type]
    kernel = Kernel(ETH0, old)
    kernel.settle(config)
    assert set(kernel.links) == {"eth0", "storage"}


def test_vlans_that_swap_their_tags_come_to_rest() -> None:
    config = NetworkConfig(
        links=(Link(name="a", vlan=Vlan(link="eth0", id=6)), Link(name="b", vlan=Vlan(link="eth0", id=5)))
    )
    kernel = Kernel(ETH0, made(8, "a", VlanTraits(2, 5, "802.1q")), made(9, "b", VlanTraits(2, 6, "802.1q")))
    kernel.settle(config)
    assert {name: link.traits for name, link in kernel.links.items() if link.ours} == {
        "a": VlanTraits(2, 6, "802.1q"),
        "b": VlanTraits(2, 5, "802.1q"),
    }


def test_a_bond_changes_in_place_where_the_kernel_lets_it() -> None:
    have = made(9, "bond0", BOND)
    member = card(3, "eth1", master=9)

    def change(**options: object) -> tuple[Operation, ...]:
        bond = Bond(links=("eth1",), **options)  # type: ignore[arg-type]
        return operations(NetworkConfig(links=(Link(name="bond0", bond=bond),)), have, member)

    assert change() == ()
    assert change(monitor_interval_ms=50, up_delay_ms=120, primary="eth1") == (
        ChangeLink(9, "bond0", BondTraits("active-backup", 50, 100, 0, primary=3)),
    )
    again = change(mode="802.3ad", lacp_rate="fast")
    wanted = BondTraits("802.3ad", 100, 0, 0, lacp_rate="fast", transmit_hash="layer2")
    assert again[:2] == (DeleteLink(9, "bond0"), MakeLink("bond0", wanted))


def test_bridge_options_change_in_place() -> None:
    config = NetworkConfig(links=(Link(name="br0", bridge=Bridge(stp=True, vlan_filtering=True)),))
    wanted = BridgeTraits(True, True)
    assert operations(config, made(9, "br0", BridgeTraits(False, False))) == (ChangeLink(9, "br0", wanted),)


def test_members_are_down_when_a_bond_takes_them_and_a_released_card_stays() -> None:
    bond, bridge = made(9, "bond0", BOND), made(10, "br0", BridgeTraits(False, False))
    pod = card(12, "veth1", physical=False, kind="veth", master=10)
    gone = card(4, "eth2", master=10)
    config = NetworkConfig(
        links=(Link(name="bond0", bond=Bond(links=("eth1",))), Link(name="br0", bridge=Bridge(links=("eth0",))))
    )
    assert operations(config, ETH0, ETH1, gone, bond, bridge, pod) == (
        Enslave(2, "eth0", 10, "br0", down_first=False),
        Enslave(3, "eth1", 9, "bond0", down_first=True),
        Release(4, "eth2", "br0"),
    )


def test_members_carry_nothing_of_their_own() -> None:
    config = NetworkConfig(
        links=(
            Link(match=LinkMatch(mac=ETH1.mac), addresses=("192.0.2.1/24",), dhcp4=True, mtu=9000),
            Link(name="bond0", bond=Bond(links=("eth1",))),
        )
    )
    (entry,) = select(config, (ETH1,)).managed
    assert (entry.wish.addresses, entry.wish.dhcp4, entry.wish.slaac, entry.wish.mtu) == ((), False, False, 9000)


def test_what_others_lie_on_is_switched_on() -> None:
    config = NetworkConfig(links=(Link(name="lan5", vlan=Vlan(link="eth0", id=5)),))
    assert SetLink(2, "eth0", True) in operations(config, structs.replace(ETH0, up=False))


def test_what_is_missing_is_said() -> None:
    config = NetworkConfig(
        links=(
            Link(name="lan5", vlan=Vlan(link="eth9", id=5)),
            Link(name="bond0", bond=Bond(links=("eth0", "eth8"))),
            Link(name="cni0", bridge=Bridge()),
            Link(name="eth1", wireguard=Wireguard()),
        )
    )
    found = stack(config, (ETH0, ETH1, card(9, "cni0", physical=False, kind="bridge")))
    assert found.waiting == (
        "lan5 waits for eth9",
        "bond0 waits for its member eth8",
        "cni0 cannot be made: a link that the node did not make has that name",
        "eth1 cannot be made: a card has that name",
    )
    assert [entry.name for entry in found.made] == ["bond0"]
    assert select(config, (ETH0, ETH1)).missing == ()


def test_a_circle_of_links_ends() -> None:
    config = NetworkConfig(links=(Link(name="a", vlan=Vlan(link="b", id=1)), Link(name="b", vlan=Vlan(link="a", id=1))))
    assert stack(config, (ETH0,)).waiting == ("b waits for a", "a waits for b")


def test_tunnels_have_nothing_to_change_here() -> None:
    config = NetworkConfig(links=(Link(name="wg0", wireguard=Wireguard(), mtu=1380),))
    assert operations(config, made(9, "wg0", WireguardTraits(), mtu=1380)) == ()
    assert operations(config)[0] == MakeLink("wg0", WireguardTraits(), 1380)


def test_a_link_that_must_not_follow_routers_loses_what_they_gave_it() -> None:
    import ipaddress

    from machined.network.model import ObservedAddress, ObservedRoute

    address = ObservedAddress(2, ipaddress.ip_interface("2001:db8::5/64"), 2)
    route = ObservedRoute(2, ipaddress.ip_network("::/0"), ipaddress.ip_address("fe80::1"), 1024, 9)
    other = structs.replace(route, index=3)
    for slaac, expected in ((True, ()), (False, (RemoveRoute(route), RemoveAddress(address)))):
        config = NetworkConfig(links=(Link(name="eth0", slaac=slaac),))
        want = desired(select(config, (ETH0,)), {})
        assert plan(Observed((ETH0,), (address,), (route, other)), want) == expected


@pytest.mark.parametrize(
    ("mode", "speeds", "said"),
    [
        (
            "802.3ad",
            ("-1", None),
            "bond0 has no carrier: eth0, eth1 tell no speed, and without it 802.3ad uses no member",
        ),
        ("802.3ad", ("-1", "1000"), "bond0 has no carrier"),
        ("active-backup", ("-1", "-1"), "bond0 has no carrier"),
    ],
)
def test_bond_without_carrier_for_want_of_a_speed_says_so(
    tmp_path: Path, mode: str, speeds: tuple[str | None, ...], said: str
) -> None:
    bond = made(5, "bond0", structs.replace(BOND, mode=mode), carrier=False)
    members = [card(2 + at, f"eth{at}", master=5) for at in range(2)]
    for member, speed in zip(members, speeds, strict=True):
        if speed is not None:
            (tmp_path / "class/net" / member.name).mkdir(parents=True)
            (tmp_path / "class/net" / member.name / "speed").write_text(f"{speed}\n")
    assert no_carrier(bond, Observed((*members, bond)), tmp_path) == said
