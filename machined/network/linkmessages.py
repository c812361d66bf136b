"""Links in rtnetlink's messages and back: what kind a link is, and what it takes to make, change and join links."""

from __future__ import annotations

from typing import Any

from machined import paths
from machined.network import rtnl
from machined.network.model import (
    BondTraits,
    BridgeTraits,
    ChangeLink,
    MakeLink,
    ObservedLink,
    SetLink,
    Traits,
    VlanTraits,
    WireguardTraits,
)
from machined.network.stack import WITH_HASH, WITH_LACP, WITH_PRIMARY

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_LOWER_UP = 0x10000

# Numbers of include/uapi/linux/if_bonding.h and if_ether.h; the names are the kernel's own (/sys/class/net/*/bonding).
_BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_HASHES = ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")
_LACP_RATES = ("slow", "fast")
_VLAN_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}


def set_link(change: SetLink) -> Any:
    """Up, down, MTU."""
    message = rtnl.ifinfmsg()
    message["index"] = change.index
    if change.up is not None:
        message["flags"], message["change"] = (_IFF_UP if change.up else 0), _IFF_UP
    if change.mtu is not None:
        message["attrs"] = [("IFLA_MTU", change.mtu)]
    return message


def make_link(wanted: MakeLink) -> Any:
    """A new link, in our group from the beginning."""
    message = rtnl.ifinfmsg()
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", wanted.name), ("IFLA_GROUP", paths.LINK_GROUP)]
    if isinstance(wanted.traits, VlanTraits):
        attributes.append(("IFLA_LINK", wanted.traits.parent))
    if wanted.mtu is not None:
        attributes.append(("IFLA_MTU", wanted.mtu))
    message["attrs"] = [*attributes, ("IFLA_LINKINFO", _info(wanted.traits))]
    return message


def change_link(change: ChangeLink) -> Any:
    """Options of a living link. A bond's mode and LACP rate are left out: they cannot change while it has members."""
    message = rtnl.ifinfmsg()
    message["index"] = change.index
    message["attrs"] = [("IFLA_LINKINFO", _info(change.traits, living=True))]
    return message


def join_link(index: int, master: int) -> Any:
    """Member of *master*; of none when that is 0."""
    message = rtnl.ifinfmsg()
    message["index"] = index
    message["attrs"] = [("IFLA_MASTER", master)]
    return message


def delete_link(index: int) -> Any:
    """The end of a link."""
    message = rtnl.ifinfmsg()
    message["index"] = index
    return message


def _info(traits: Traits, *, living: bool = False) -> dict[str, Any]:
    data: list[tuple[str, Any]] = []
    match traits:
        case VlanTraits(_, number, protocol):
            kind = "vlan"
            data = [("IFLA_VLAN_ID", number), ("IFLA_VLAN_PROTOCOL", _VLAN_PROTOCOLS[protocol])]
        case BondTraits():
            kind = "bond"
            data = _bond_options(traits, living=living)
        case BridgeTraits(stp, filtering):
            kind = "bridge"
            data = [("IFLA_BR_STP_STATE", int(stp))]
            if filtering or living:  # a kernel without it refuses even to be told "no"
                data.append(("IFLA_BR_VLAN_FILTERING", int(filtering)))
        case WireguardTraits():
            return {"attrs": [("IFLA_INFO_KIND", "wireguard")]}
    return {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": data})]}


def _bond_options(bond: BondTraits, *, living: bool) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [] if living else [("IFLA_BOND_MODE", _BOND_MODES.index(bond.mode))]
    options += [
        ("IFLA_BOND_MIIMON", bond.monitor_ms),
        ("IFLA_BOND_UPDELAY", bond.up_delay_ms),
        ("IFLA_BOND_DOWNDELAY", bond.down_delay_ms),
    ]
    if bond.primary is not None or (living and bond.mode in WITH_PRIMARY):
        options.append(("IFLA_BOND_PRIMARY", bond.primary or 0))
    if bond.transmit_hash is not None:
        options.append(("IFLA_BOND_XMIT_HASH_POLICY", _HASHES.index(bond.transmit_hash)))
    if bond.lacp_rate is not None and not living:
        options.append(("IFLA_BOND_AD_LACP_RATE", _LACP_RATES.index(bond.lacp_rate)))
    return options


def observed_link(message: Any) -> ObservedLink:
    """A link of a dump."""
    flags = message["flags"]
    mac = (message.get_attr("IFLA_ADDRESS") or "").lower()
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    parent = message.get_attr("IFLA_LINK") or 0
    return ObservedLink(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=mac,
        permanent_mac=(message.get_attr("IFLA_PERM_ADDRESS") or mac).lower(),
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        mtu=message.get_attr("IFLA_MTU") or 0,
        loopback=bool(flags & _IFF_LOOPBACK),
        physical=message.get_attr("IFLA_PARENT_DEV_NAME") is not None,
        kind=kind,
        ours=message.get_attr("IFLA_GROUP") == paths.LINK_GROUP,
        master=message.get_attr("IFLA_MASTER") or 0,
        parent=parent,
        traits=_traits(kind, parent, data),
        active_member=(data.get_attr("IFLA_BOND_ACTIVE_SLAVE") or 0) if kind == "bond" and data else 0,
    )


def _traits(kind: str, parent: int, data: Any) -> Traits | None:
    if kind == "wireguard":
        return WireguardTraits()
    if data is None:
        return None
    if kind == "vlan":
        number = data.get_attr("IFLA_VLAN_PROTOCOL")
        protocol = next((name for name, value in _VLAN_PROTOCOLS.items() if value == number), "802.1q")
        return VlanTraits(parent, data.get_attr("IFLA_VLAN_ID"), protocol)
    if kind == "bridge":
        return BridgeTraits(
            bool(data.get_attr("IFLA_BR_STP_STATE")),
            bool(data.get_attr("IFLA_BR_VLAN_FILTERING")),
        )
    return _bond_traits(data) if kind == "bond" else None


def _bond_traits(data: Any) -> BondTraits:
    mode = _BOND_MODES[data.get_attr("IFLA_BOND_MODE")]
    return BondTraits(
        mode=mode,
        monitor_ms=data.get_attr("IFLA_BOND_MIIMON") or 0,
        up_delay_ms=data.get_attr("IFLA_BOND_UPDELAY") or 0,
        down_delay_ms=data.get_attr("IFLA_BOND_DOWNDELAY") or 0,
        primary=data.get_attr("IFLA_BOND_PRIMARY") or None,
        lacp_rate=_LACP_RATES[data.get_attr("IFLA_BOND_AD_LACP_RATE") or 0] if mode in WITH_LACP else None,
        transmit_hash=_HASHES[data.get_attr("IFLA_BOND_XMIT_HASH_POLICY") or 0] if mode in WITH_HASH else None,
    )
