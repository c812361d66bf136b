"""What a DHCP server granted, and its form on disk.

Leases are kept in ``/run``, so that a machined that was killed goes on with the address it had; a reboot asks anew.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from msgspec import Struct

from basalt.files import write_atomic

IPv4Address = ipaddress.IPv4Address


class Lease(Struct, frozen=True):
    """An address with what came along. Times in seconds of CLOCK_BOOTTIME, which nobody sets."""

    interface: ipaddress.IPv4Interface
    server: IPv4Address
    renew_at: float  # T1
    rebind_at: float  # T2
    expires_at: float
    routes: tuple[tuple[ipaddress.IPv4Network, IPv4Address | None], ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    search: tuple[str, ...] = ()
    time_servers: tuple[IPv4Address, ...] = ()


class Lease6(Struct, frozen=True):
    """An IPv6 address with what came along. Times in seconds of CLOCK_BOOTTIME."""

    interface: ipaddress.IPv6Interface  # always /128: DHCPv6 knows no prefix length, routers advertise the link's
    server: bytes  # its DUID
    renew_at: float  # T1
    rebind_at: float  # T2
    preferred_until: float
    expires_at: float
    dns: tuple[ipaddress.IPv6Address, ...] = ()
    search: tuple[str, ...] = ()


def save(lease: Lease, path: Path) -> None:
    """Write *lease* to *path*."""
    values = {
        "interface": str(lease.interface),
        "server": str(lease.server),
        "times": [lease.renew_at, lease.rebind_at, lease.expires_at],
        "routes": [[str(destination), str(router) if router else None] for destination, router in lease.routes],
        "dns": [str(address) for address in lease.dns],
        "search": list(lease.search),
        "time_servers": [str(address) for address in lease.time_servers],
    }
    path.parent.mkdir(mode=0o755, exist_ok=True)
    write_atomic(path, json.dumps(values).encode())


def load(path: Path) -> Lease | None:
    """The lease at *path*; None when there is none or it makes no sense (the client then asks for a new one)."""
    try:
        values = json.loads(path.read_bytes())
        renew_at, rebind_at, expires_at = map(float, values["times"])
        return Lease(
            interface=ipaddress.IPv4Interface(values["interface"]),
            server=IPv4Address(values["server"]),
            renew_at=renew_at,
            rebind_at=rebind_at,
            expires_at=expires_at,
            routes=tuple(
                (ipaddress.IPv4Network(destination), IPv4Address(router) if router else None)
                for destination, router in values["routes"]
            ),
            dns=tuple(map(IPv4Address, values["dns"])),
            search=tuple(map(str, values["search"])),
            time_servers=tuple(map(IPv4Address, values["time_servers"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save6(lease: Lease6, path: Path) -> None:
    """Write *lease* to *path*."""
    values = {
        "interface": str(lease.interface),
        "server": lease.server.hex(),
        "times": [lease.renew_at, lease.rebind_at, lease.preferred_until, lease.expires_at],
        "dns": [str(address) for address in lease.dns],
        "search": list(lease.search),
    }
    path.parent.mkdir(mode=0o755, exist_ok=True)
    write_atomic(path, json.dumps(values).encode())


def load6(path: Path) -> Lease6 | None:
    """The lease at *path*; None when there is none or it makes no sense."""
    try:
        values = json.loads(path.read_bytes())
        renew_at, rebind_at, preferred_until, expires_at = map(float, values["times"])
        return Lease6(
            interface=ipaddress.IPv6Interface(values["interface"]),
            server=bytes.fromhex(values["server"]),
            renew_at=renew_at,
            rebind_at=rebind_at,
            preferred_until=preferred_until,
            expires_at=expires_at,
            dns=tuple(map(ipaddress.IPv6Address, values["dns"])),
            search=tuple(map(str, values["search"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
