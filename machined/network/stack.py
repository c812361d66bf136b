"""The links that the node makes, as the configuration wants them on the links that are there. Pure.

VLANs, bonds, bridges and WireGuard tunnels lie on other links or hold them, at any depth. What is wanted is worked out for the links
that exist at this moment: a VLAN whose parent is still missing is left for a later look, with words about it. Each look brings the
stack one floor up, so it converges from whatever state it is found in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from basalt.config.documents import Bond, Bridge, Link, NetworkConfig, Vlan
from machined.network.model import BondTraits, BridgeTraits, ObservedLink, Traits, VlanTraits, WireguardTraits

# Modes in which an option means something; the kernel refuses it in the others (bond_opts in drivers/net/bonding/bond_options.c).
WITH_PRIMARY = frozenset({"active-backup", "balance-tlb", "balance-alb"})
WITH_HASH = frozenset({"balance-xor", "802.3ad", "balance-tlb"})
WITH_LACP = frozenset({"802.3ad"})


class Made(Struct, frozen=True):
    """A link that the node is to make, or has made."""

    name: str
    traits: Traits
    mtu: int | None = None


class Stack(Struct, frozen=True):
    """What is wanted of made links.

    :param made: those that can be made now, or are there, lowest floor first.
    :param names: all that are configured, those that cannot be made yet included.
    :param masters: member → the link that it belongs to, by name.
    :param waiting: what is missing, in words.
    """

    made: tuple[Made, ...] = ()
    names: frozenset[str] = frozenset()
    masters: dict[str, str] = {}
    waiting: tuple[str, ...] = ()


def is_made(wish: Link) -> bool:
    """Whether the node makes this link."""
    return any(part is not None for part in (wish.vlan, wish.bond, wish.bridge, wish.wireguard))


def members_of(wish: Link) -> tuple[str, ...]:
    """The links that a bond or bridge holds."""
    return wish.bond.links if wish.bond else wish.bridge.links if wish.bridge else ()


def supports(config: NetworkConfig | None) -> tuple[str, ...]:
    """Links that others lie on or hold. Those without an entry of their own are switched on as well, for the others' sake."""
    if config is None:
        return ()
    found = [name for wish in config.links for name in ((wish.vlan.link,) if wish.vlan else members_of(wish))]
    return tuple(dict.fromkeys(found))


def stack(config: NetworkConfig | None, links: Iterable[ObservedLink]) -> Stack:
    """Work out which links are to be made, on the links that are there."""
    if config is None:
        return Stack()
    present = {link.name: link for link in links}
    wishes = {wish.name: wish for wish in config.links if wish.name and is_made(wish)}
    made, waiting = [], []
    for name in _lowest_first(wishes):
        wish = wishes[name]
        taken = present.get(name)
        if taken is not None and not taken.ours:
            what = "a card" if taken.physical else "a link that the node did not make"
            waiting.append(f"{name} cannot be made: {what} has that name")
            continue
        traits = _traits(wish, present)
        if traits is None:
            waiting.append(f"{name} waits for {wish.vlan.link if wish.vlan else 'what it lies on'}")
            continue
        made.append(Made(name, traits, wish.mtu))
        waiting += [f"{name} waits for its member {member}" for member in members_of(wish) if member not in present]
    masters = {member: name for name, wish in wishes.items() for member in members_of(wish)}
    return Stack(tuple(made), frozenset(wishes), masters, tuple(waiting))


def _lowest_first(wishes: dict[str, Link]) -> Iterator[str]:
    """Names in an order in which what a link lies on, or holds, comes before it. A circle comes in any order."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if name in done or name not in wishes:
            return
        done.add(name)
        wish = wishes[name]
        for below in (wish.vlan.link,) if wish.vlan else members_of(wish):
            yield from visit(below)
        yield name

    for name in wishes:
        yield from visit(name)


def _traits(wish: Link, present: dict[str, ObservedLink]) -> Traits | None:
    """What kind of link it is; None while a link that it lies on is missing."""
    if wish.vlan:
        return _vlan(wish.vlan, present)
    if wish.bond:
        return _bond(wish.bond, present)
    if wish.bridge:
        return _bridge(wish.bridge)
    return WireguardTraits()


def _vlan(vlan: Vlan, present: dict[str, ObservedLink]) -> VlanTraits | None:
    parent = present.get(vlan.link)
    return VlanTraits(parent.index, vlan.id, vlan.protocol) if parent else None


def _bond(bond: Bond, present: dict[str, ObservedLink]) -> BondTraits:
    interval = bond.monitor_interval_ms
    preferred = bond.mode in WITH_PRIMARY and bond.primary in bond.links
    primary = present.get(bond.primary) if preferred and bond.primary else None
    return BondTraits(
        mode=bond.mode,
        monitor_ms=interval,
        # The kernel counts both in whole monitor intervals, and shows what came of it.
        up_delay_ms=bond.up_delay_ms - bond.up_delay_ms % interval,
        down_delay_ms=bond.down_delay_ms - bond.down_delay_ms % interval,
        primary=primary.index if primary else None,
        lacp_rate=bond.lacp_rate if bond.mode in WITH_LACP else None,
        transmit_hash=bond.transmit_hash if bond.mode in WITH_HASH else None,
    )


def _bridge(bridge: Bridge) -> BridgeTraits:
    return BridgeTraits(bridge.stp, bridge.vlan_filtering)
