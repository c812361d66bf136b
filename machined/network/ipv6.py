"""Which links follow IPv6 router advertisements: the kernel's switches, and a question to the routers when one is turned on."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

from machined.network.desired import Managed

_ALL_ROUTERS = "ff02::2"
_NOBODY_TO_ASK = frozenset({errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENOKEY, errno.EDESTADDRREQ})
_ROUTER_SOLICITATION = struct.pack("!BBHI", 133, 0, 0, 0)  # RFC 4861, section 4.1; the kernel puts the checksum in


def follow_routers(entry: Managed, proc: Path) -> None:
    """Set the switches of one link as the configuration wants them, and ask the routers when that turned them on.

    accept_ra is 2, not 1: the node goes on listening even when it forwards packets for its containers.
    """
    settings = proc / f"sys/net/ipv6/conf/{entry.link.name}"
    wanted = {"accept_ra": "2", "autoconf": "1"} if entry.wish.slaac else {"accept_ra": "0", "autoconf": "0"}
    turned_on = False
    for name, value in wanted.items():
        path = settings / name
        try:
            before = path.read_text(encoding="ascii").strip()
            if before != value:
                path.write_text(value, encoding="ascii")
                turned_on = turned_on or before == "0"
        except FileNotFoundError:  # a kernel without IPv6, or a link that has just gone
            return
        except OSError as error:
            print(f"network: {path}: {error}", flush=True)
    if turned_on and entry.link.carrier:
        solicit(entry.link.name)


def solicit(link: str) -> None:
    """Ask the routers on *link* to say now what they would say later; the kernel asks only when a link comes up.

    A link without a link-local address is left alone: the kernel asks as soon as it has one. A tunnel may never have one.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            sock.sendto(_ROUTER_SOLICITATION, (_ALL_ROUTERS, 0, 0, socket.if_nametoindex(link)))
    except OSError as error:
        if error.errno not in _NOBODY_TO_ASK:
            print(f"network: asking the routers on {link}: {error.strerror}", flush=True)
