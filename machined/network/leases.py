"""The DHCP clients of all links: one for each link and family that wants an address and has a carrier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from machined.network.desired import Managed
from machined.network.dhcp.client import Client, client4, client6
from machined.network.dhcp.lease import Lease, Lease6
from machined.network.model import Address

_Key = tuple[int, int]  # family (4, 6) and the link's index


class DhcpClients:
    """Starts and stops clients as links come and go.

    :param directory: where leases are kept for the next machined of the same boot.
    :param duid: who the node is to DHCPv6 servers.
    """

    def __init__(
        self, directory: Path, hostname: Callable[[], str], duid: Callable[[], bytes], on_change: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._hostname = hostname
        self._duid = duid
        self._on_change = on_change
        self._clients: dict[_Key, Client[Lease] | Client[Lease6]] = {}
        self._macs: dict[_Key, str] = {}
        self._carrier: dict[int, bool] = {}

    @property
    def all(self) -> tuple[Lease | Lease6, ...]:
        """The leases in force, DHCPv4's first, in the order of the links."""
        return tuple(client.lease for _, client in sorted(self._clients.items()) if client.lease)

    @property
    def v4(self) -> dict[int, Lease]:
        """DHCPv4 leases by link index."""
        found = {index: client.lease for (_, index), client in self._clients.items()}
        return {index: lease for index, lease in found.items() if isinstance(lease, Lease)}

    @property
    def v6(self) -> dict[int, Lease6]:
        """DHCPv6 leases by link index."""
        found = [(index, client.lease) for (_, index), client in self._clients.items()]
        return {index: lease for index, lease in found if isinstance(lease, Lease6)}

    async def keep(self, entries: Iterable[Managed]) -> None:
        """A client on each link that wants one and has a carrier; none elsewhere."""
        wanted = {
            (family, entry.link.index): entry
            for entry in entries
            for family, wish in ((4, entry.wish.dhcp4), (6, entry.wish.dhcp6))
            if wish and entry.wish.up
        }
        for key in [key for key in self._clients if key not in wanted]:
            await self._clients.pop(key).stop(forget=True)
        for key, entry in wanted.items():
            await self._keep_one(key, entry)
        self._carrier = {entry.link.index: entry.link.carrier for entry in wanted.values()}

    async def _keep_one(self, key: _Key, entry: Managed) -> None:
        link = entry.link
        client = self._clients.get(key)
        if client is not None and key[0] == 4 and self._macs.get(key) != link.mac:
            # A bond or bridge takes its members' address, and to the server it is another client then.
            await client.stop(forget=True)
            client = None
        if client is None:
            if link.carrier:
                self._clients[key] = self._new(key[0], entry)
                self._macs[key] = link.mac
                self._clients[key].start()
        elif link.carrier and not self._carrier.get(link.index, False):
            client.link_came_back()

    def _new(self, family: int, entry: Managed) -> Client[Lease] | Client[Lease6]:
        name = entry.link.name
        if family == 4:
            return client4(name, entry.link.mac, self._hostname(), self._directory / f"{name}.json", self._on_change)
        return client6(name, self._duid(), self._directory / f"{name}.dhcp6.json", self._on_change)

    def missing(self, entry: Managed) -> list[str]:
        """What a link still waits for, in words."""
        found = []
        for family, wish in ((4, entry.wish.dhcp4), (6, entry.wish.dhcp6)):
            client = self._clients.get((family, entry.link.index))
            if wish and (client is None or not client.bound):
                doing = client.doing if client else "coming up"
                found.append(f"{entry.link.name} is {doing}{' (IPv6)' if family == 6 else ''}")
        return found

    def decline(self, index: int, address: Address) -> None:
        """Give back an IPv6 address that another machine turned out to use; one that is no lease of ours is nobody's here."""
        client = self._clients.get((6, index))
        if client and client.lease and client.lease.interface.ip == address:
            client.decline()

    async def stop(self) -> None:
        """Stop all; leases and addresses stay, for the next machined."""
        for client in self._clients.values():
            await client.stop(forget=False)
        self._clients.clear()
