"""The files through which programs find names: hosts, resolv.conf, hostname, machine-id, all below ``/run/etc``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from basalt.config.documents import Dns
from machined.network.advertised import Advertised
from machined.network.dhcp.lease import Lease, Lease6

RESOLVERS_MAX = 3  # the C library reads no more (resolv.conf(5), MAXNS)


def resolv_conf(dns: Dns | None, leases: Iterable[Lease | Lease6], advertised: Iterable[Advertised] = ()) -> str:
    """The resolver's configuration: the configured servers first, then what DHCP named, then what routers did."""
    servers = [*(dns.servers if dns else ())]
    search = [*(dns.search if dns else ())]
    for lease in leases:
        servers += [str(address) for address in lease.dns]
        search += [] if dns and dns.search else lease.search
    for entry in advertised:
        servers += [entry.server] if entry.server else []
        search += [entry.domain] if entry.domain and not (dns and dns.search) else []
    lines = [f"nameserver {server}" for server in list(dict.fromkeys(servers))[:RESOLVERS_MAX]]
    if search:
        lines.append(f"search {' '.join(dict.fromkeys(search))}")
    return "".join(f"{line}\n" for line in lines)


def hosts(hostname: str) -> str:
    """/etc/hosts: the node resolves its own name without a server."""
    return f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n"


def write_names(etc: Path, hostname: str, machine_id: str) -> None:
    """The files that say who the node is."""
    put(etc / "hostname", f"{hostname}\n")
    put(etc / "hosts", hosts(hostname))
    put(etc / "machine-id", f"{machine_id}\n")


def put(path: Path, text: str, *, mode: int = 0o644) -> bool:
    """Write *text* where it differs; whether it did. Written beside and renamed: a reader never sees half a file.

    Not durable, for ``/run`` is memory: an fsync there costs a system call and gives nothing.

    :param mode: permission bits of a file that is written; in force before any text is in it.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except FileNotFoundError:
        pass
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)  # of a machined that was killed here: O_CREAT alone would keep its mode
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as stream:
        os.fchmod(fd, mode)
        stream.write(text)
    staged.rename(path)
    return True
