"""The concern "network": DHCP clients where they are wanted, the plan carried out, the names written, the addresses announced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from basalt.config.documents import NetworkConfig
from machined import paths
from machined.network.desired import Managed, Selection, desired, select
from machined.network.dhcp.client import Client
from machined.network.dhcp.lease import Lease
from machined.network.model import ROUTER_ADVERTISEMENT, Observed, ObservedAddress, SetLink
from machined.network.names import put, resolv_conf
from machined.network.netlink import Netlink
from machined.network.plan import plan
from machined.reconcile import CONVERGED, Status, failed, waiting

_SOURCES = {paths.RTPROT_STATIC: "static", paths.RTPROT_DHCP: "dhcp4", ROUTER_ADVERTISEMENT: "slaac"}


class ReachableAddress(Struct, frozen=True):
    """An address under which the node can be reached."""

    link: str
    address: str  # with prefix length
    source: str  # static, dhcp4, slaac, or "" when somebody else made it


def reachable(observed: Observed) -> tuple[ReachableAddress, ...]:
    """The addresses of *observed* that others can use: neither the loopback's nor link-local nor still being checked."""
    links = {link.index: link for link in observed.links if not link.loopback}
    return tuple(
        ReachableAddress(links[address.index].name, str(address.interface), _SOURCES.get(address.protocol, ""))
        for address in observed.addresses
        if address.index in links and _is_reachable(address)
    )


def _is_reachable(address: ObservedAddress) -> bool:
    return not (address.link_local or address.tentative)


class NetworkReconciler:
    """Owns links, addresses, routes, DHCP clients and resolv.conf.

    :param on_lease_change: asks for another look; DHCP clients call it.
    :param announce: told once of each address that has become reachable.
    """

    def __init__(
        self,
        netlink: Netlink,
        node: paths.Paths,
        *,
        config: Callable[[], NetworkConfig | None],
        hostname: Callable[[], str],
        on_lease_change: Callable[[], None],
        announce: Callable[[ReachableAddress], None],
    ) -> None:
        self._netlink = netlink
        self._node = node
        self._config = config
        self._hostname = hostname
        self._on_lease_change = on_lease_change
        self._announce = announce
        self._clients: dict[int, Client] = {}
        self._carrier: dict[int, bool] = {}
        self._announced: set[ReachableAddress] = set()
        self._router_advertisements: set[int] = set()
        self.addresses: tuple[ReachableAddress, ...] = ()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases in force, in the order of the links."""
        return tuple(client.lease for _, client in sorted(self._clients.items()) if client.lease)

    async def reconcile(self) -> Status:
        """One look at everything, and what follows from it."""
        config = self._config()
        observed = await self._netlink.observe()
        selection = select(config, observed.links)
        await self._keep_clients(selection)
        self._accept_router_advertisements(selection)
        leases = {index: client.lease for index, client in self._clients.items() if client.lease}
        problems = []
        operations = plan(observed, desired(selection, leases))
        for operation in operations:
            try:
                await self._netlink.apply(operation)
            except OSError as error:
                problems.append(error.strerror or str(error))
            if isinstance(operation, SetLink) and operation.up:
                self._on_lease_change()  # the carrier comes a moment later, perhaps without an event of its own
        if operations:
            observed = await self._netlink.observe()
        put(self._node.etc / "resolv.conf", resolv_conf(config.dns if config else None, self.leases))
        self._tell(observed)
        if problems:
            return failed("; ".join(problems), "machined tries again; the reason is the kernel's")
        return self._status(selection)

    def _tell(self, observed: Observed) -> None:
        self.addresses = reachable(observed)
        for address in self.addresses:
            if address not in self._announced:
                self._announce(address)
        self._announced = set(self.addresses)

    async def _keep_clients(self, selection: Selection) -> None:
        """A DHCP client on each link that wants one and has a carrier; none elsewhere."""
        wanted = {entry.link.index: entry for entry in selection.managed if entry.wish.dhcp4 and entry.wish.up}
        for index in [index for index in self._clients if index not in wanted]:
            await self._clients.pop(index).stop(forget=True)
            self._carrier.pop(index, None)
        for index, entry in wanted.items():
            client = self._clients.get(index)
            had_carrier = self._carrier.get(index, False)
            self._carrier[index] = entry.link.carrier
            if client is None and entry.link.carrier:
                self._clients[index] = self._new_client(entry)
                self._clients[index].start()
            elif client is not None and entry.link.carrier and not had_carrier:
                client.link_came_back()

    def _new_client(self, entry: Managed) -> Client:
        path = self._lease_path(entry.link.name)
        return Client(entry.link.name, entry.link.mac, self._hostname(), path, self._on_lease_change)

    def _lease_path(self, link: str) -> Path:
        return self._node.leases / f"{link}.json"

    def _accept_router_advertisements(self, selection: Selection) -> None:
        """Keep listening to routers even when the node forwards packets for its containers (accept_ra = 2)."""
        for entry in selection.managed:
            if entry.link.loopback or entry.link.index in self._router_advertisements:
                continue
            setting = self._node.proc / f"sys/net/ipv6/conf/{entry.link.name}/accept_ra"
            try:
                setting.write_text("2", encoding="ascii")
            except OSError as error:  # a kernel without IPv6: the link still has IPv4
                print(f"network: {setting}: {error}", flush=True)
            self._router_advertisements.add(entry.link.index)

    def _status(self, selection: Selection) -> Status:
        missing = list(selection.missing)
        for entry in selection.managed:
            name = entry.link.name
            client = self._clients.get(entry.link.index)
            if not entry.wish.up or entry.link.loopback:
                continue
            if not entry.link.carrier:
                missing.append(f"{name} has no carrier")
            elif entry.wish.dhcp4 and (client is None or not client.bound):
                missing.append(f"{name} is {client.doing if client else 'coming up'}")
        if not any(not entry.link.loopback for entry in selection.managed) and not missing:
            missing.append("there is no network link")
        if missing:
            return waiting("; ".join(missing), "goes on by itself when the link, the cable or the server is there")
        return CONVERGED

    async def stop(self) -> None:
        """Stop the DHCP clients; leases and addresses stay, for the next machined."""
        for client in self._clients.values():
            await client.stop(forget=False)
        self._clients.clear()
