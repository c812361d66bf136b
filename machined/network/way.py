"""The way by which a caller reaches the node: which links carry it, through which of the kernel's routes the answers go."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from machined.network import rtnl

if TYPE_CHECKING:
    from typing import Any

    from machined.network.model import Address

_RTM_F_FIB_MATCH = (
    0x2000  # include/uapi/linux/rtnetlink.h: answer with the route that matched, not with what follows from it
)

# include/uapi/linux/netlink.h
_F_REQUEST = 0x1
_NLMSG_ERROR = 2
_HEADER_BYTES = 16
_ANSWER_BYTES = 16 * 1024
_ANSWER_S = 2.0


class WayLink(Struct, frozen=True):
    """A link on the way. *macs*: its present and its permanent address, lower case."""

    name: str
    macs: tuple[str, ...] = ()
    physical: bool = True


class Way(Struct, frozen=True):
    """How the node reaches *peer*.

    *link* carries the answers; *below* are the links that it lies on (a bond's members, a VLAN's parent), at any depth. *local* is
    the node's address that the caller speaks to, None where that is not known. *prefix_length* is that of the route in use, 0 for a
    default route; *others* are the node's further network cards.
    """

    peer: Address
    link: WayLink
    below: tuple[WayLink, ...] = ()
    local: Address | None = None
    prefix_length: int = 0
    loopback: bool = False
    others: tuple[WayLink, ...] = ()


def address_of(peer: str) -> Address | None:
    """The address in ``192.0.2.1:4711`` or ``[2001:db8::1%eth0]:4711``; None where it is none (a unix socket)."""
    host = peer.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 callers as ::ffff:192.0.2.1 (RFC 4291, section 2.5.5.2).
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def local_address(peer: str, proc: Path) -> Address | None:
    """The node's address that the caller at *peer* speaks to, by the kernel's table of TCP connections (proc_pid_net(5)).

    :param proc: where procfs is mounted.
    """
    remote, port = address_of(peer), peer.rpartition(":")[2]
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, other, *_ = line.split()
            address, _, number = other.rpartition(":")
            if int(number, 16) == int(port) and _in_table(address) == remote:
                return _in_table(local.rpartition(":")[0])
    return None


def _in_table(text: str) -> Address:
    """An address of /proc/net/tcp or tcp6: words of 32 bits in the machine's own order."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    found = ipaddress.ip_address(packed)
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


async def look_up(peer: str, proc: Path) -> Way | None:
    """The way to the caller at *peer*; None when it has no network address.

    :param proc: where procfs is mounted.

    :raises OSError: the kernel knows no route to it, or did not answer.
    """
    address = address_of(peer)
    if address is None:
        return None
    route = _ask(_question(address))
    try:
        prefix_length = _ask(_question(address, _RTM_F_FIB_MATCH))["dst_len"]
    except OSError:
        prefix_length = 0  # not known: every route to the caller counts
    kernel = rtnl.RouteSocket()
    try:
        messages = await kernel.dump(rtnl.RTM_GETLINK, rtnl.ifinfmsg())
    finally:
        kernel.close()
    links = {message["index"]: message for message in messages}
    index = route.get_attr("RTA_OIF")
    if index not in links:
        raise OSError(f"the route to {address} leads through no link")
    beneath = _below(index, links)
    return Way(
        address,
        _link(links[index]),
        tuple(_link(links[at]) for at in sorted(beneath)),
        local_address(peer, proc),
        prefix_length,
        loopback=bool(links[index]["flags"] & 0x8),
        others=tuple(
            _link(message)
            for at, message in sorted(links.items())
            if at != index and at not in beneath and not message["flags"] & 0x8
        ),
    )


def _question(address: Address, flags: int = 0) -> Any:
    message = rtnl.rtmsg()
    message["family"] = 2 if address.version == 4 else 10
    message["dst_len"] = address.max_prefixlen
    message["flags"] = flags
    message["attrs"] = [("RTA_DST", str(address))]
    return message


def _ask(question: Any) -> Any:
    """The kernel's answer to one question about a route. It answers before the sending returns, so nothing is waited for.

    :raises OSError: with the kernel's errno, such as ENETUNREACH.
    """
    question["header"] = {"type": rtnl.RTM_GETROUTE, "flags": _F_REQUEST, "sequence_number": 1}
    question.encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_S)
        kernel.send(bytes(question.data))
        data = kernel.recv(_ANSWER_BYTES)
    (kind,) = struct.unpack_from("=H", data, 4)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", data, _HEADER_BYTES)
        raise OSError(-code, os.strerror(-code))
    answer = rtnl.rtmsg(data)
    answer.decode()
    return answer


def _below(index: int, links: dict[int, Any]) -> set[int]:
    """The links that *index* lies on: members that call it their master, and parents, and what those lie on."""
    found: set[int] = set()
    todo = [index]
    while todo:
        at = todo.pop()
        parent = links[at].get_attr("IFLA_LINK") if at in links else None
        near = {other for other, message in links.items() if message.get_attr("IFLA_MASTER") == at}
        if parent in links:
            near.add(parent)
        todo += near - found - {index}
        found |= near - {index}
    return found


def _link(message: Any) -> WayLink:
    present = str(message.get_attr("IFLA_ADDRESS") or "").lower()
    permanent = str(message.get_attr("IFLA_PERM_ADDRESS") or "").lower()
    macs = tuple(dict.fromkeys(mac for mac in (permanent, present) if mac))
    return WayLink(str(message.get_attr("IFLA_IFNAME")), macs, _is_physical(message))


def _is_physical(message: Any) -> bool:
    return message.get_attr("IFLA_PARENT_DEV_NAME") is not None and message.get_attr("IFLA_LINKINFO") is None
