"""The concern "network": links made, DHCP clients where they are wanted, the plan carried out, the names written.

A look is made of rounds: what is, what should be, the operations in between, and again, until nothing is left to do. The rounds are
needed because what lies on a link can only be planned once the link is there; a node whose links all exist needs one.
"""

from __future__ import annotations

from collections.abc import Callable

from basalt.config.documents import NetworkConfig
from machined import paths
from machined.network import advertised
from machined.network.carrier import no_carrier
from machined.network.desired import Selection, desired, select
from machined.network.dhcp.client import boottime
from machined.network.dhcp.lease import Lease
from machined.network.ipv6 import follow_routers, solicit
from machined.network.leases import DhcpClients
from machined.network.model import Address, Observed, Operation, SetLink
from machined.network.names import put, resolv_conf
from machined.network.netlink import Netlink
from machined.network.plan import plan
from machined.network.stack import Stack, stack
from machined.network.tunnels import Tunnels
from machined.network.view import LinkView, ReachableAddress, link_views, reachable
from machined.reconcile import CONVERGED, Status, failed, waiting

ROUNDS_MAX = 12  # a stack of three floors takes five; what has not settled by then fights with somebody


class NetworkReconciler:
    """Owns links, addresses, routes, DHCP clients, tunnels and resolv.conf.

    :param on_lease_change: asks for another look; DHCP clients call it.
    :param duid: who the node is to DHCPv6 servers.
    :param announce: told once of each address that has become reachable.
    """

    def __init__(
        self,
        netlink: Netlink,
        node: paths.Paths,
        *,
        config: Callable[[], NetworkConfig | None],
        hostname: Callable[[], str],
        duid: Callable[[], bytes],
        on_lease_change: Callable[[], None],
        announce: Callable[[ReachableAddress], None],
    ) -> None:
        self._netlink = netlink
        self._node = node
        self._config = config
        self._look_again = on_lease_change
        self._announce = announce
        self._clients = DhcpClients(node.leases, hostname, duid, on_lease_change)
        self._tunnels = Tunnels(node.wireguard, on_lease_change)
        self._announced: set[ReachableAddress] = set()
        self._advertised: tuple[advertised.Advertised, ...] = ()
        self._asked_routers: set[int] = set()
        self._names: dict[int, str] = {}
        self.addresses: tuple[ReachableAddress, ...] = ()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The DHCPv4 leases in force, in the order of the links."""
        return tuple(lease for _, lease in sorted(self._clients.v4.items()))

    async def links(self) -> tuple[LinkView, ...]:
        """Every link with what is on it, as it is now.

        :raises OSError: the kernel did not answer.
        """
        observed = await self._netlink.observe()
        tunnels = await self._tunnels.read(link.index for link in observed.links if link.kind == "wireguard")
        return link_views(observed, tunnels)

    def hear(self, message: bytes) -> None:
        """A router's advertisement named DNS servers or domains (RTM_NEWNDUSEROPT)."""
        now = boottime()
        self._advertised = advertised.learn(self._advertised, advertised.parse(message, now, self._names), now)

    def duplicate(self, index: int, address: Address) -> None:
        """The kernel took an address back, because another machine of the link has it."""
        self._clients.decline(index, address)

    async def reconcile(self) -> Status:
        """One look at everything, and what follows from it."""
        config = self._config()
        problems: list[str] = []
        for _ in range(ROUNDS_MAX):
            observed = await self._netlink.observe()
            self._names = {link.index: link.name for link in observed.links}
            wanted = stack(config, observed.links)
            selection = select(config, observed.links)
            await self._clients.keep(selection.managed)
            self._follow_routers(selection)
            operations = plan(observed, desired(selection, self._clients.v4, self._clients.v6), wanted)
            problems = await self._carry_out(operations)
            if not operations or len(problems) == len(operations):
                break
        else:
            problems.append("the links do not come to rest: something else changes them")
        problems += await self._tunnels.keep(selection.managed)
        self._write_resolvers(config, selection)
        self._tell(observed)
        if problems:
            return failed("; ".join(problems), "machined tries again; the reason is the kernel's")
        return self._status(observed, selection, wanted)

    async def _carry_out(self, operations: tuple[Operation, ...]) -> list[str]:
        """Carry out what can be; the rest in words."""
        problems = []
        for operation in operations:
            try:
                await self._netlink.apply(operation)
            except OSError as error:
                problems.append(error.strerror or str(error))
            if isinstance(operation, SetLink) and operation.up:
                self._look_again()  # the carrier comes a moment later, perhaps without an event of its own
        return problems

    def _follow_routers(self, selection: Selection) -> None:
        for entry in selection.managed:
            if entry.link.loopback:
                continue
            follow_routers(entry, self._node.proc)
            index = entry.link.index
            if entry.wish.slaac and entry.link.carrier and index not in self._asked_routers:
                # What routers said about DNS before this machined began to listen is not kept anywhere.
                self._asked_routers.add(index)
                solicit(entry.link.name)
            if not entry.link.carrier:
                self._asked_routers.discard(index)

    def _write_resolvers(self, config: NetworkConfig | None, selection: Selection) -> None:
        self._advertised = advertised.learn(self._advertised, (), boottime())
        listening = {entry.link.index for entry in selection.managed if entry.wish.slaac and entry.wish.up}
        said = [entry for entry in self._advertised if entry.index in listening]
        text = resolv_conf(config.dns if config else None, self._clients.all, said)
        put(self._node.etc / "resolv.conf", text)

    def _tell(self, observed: Observed) -> None:
        self.addresses = reachable(observed)
        for address in self.addresses:
            if address not in self._announced:
                self._announce(address)
        self._announced = set(self.addresses)

    def _status(self, observed: Observed, selection: Selection, wanted: Stack) -> Status:
        missing = [*selection.missing, *wanted.waiting, *self._tunnels.waiting]
        for entry in selection.managed:
            if not entry.wish.up or entry.link.loopback:
                continue
            if not entry.link.carrier:
                missing.append(no_carrier(entry.link, observed, self._node.sys))
            else:
                missing += self._clients.missing(entry)
        if not any(not entry.link.loopback for entry in selection.managed) and not missing:
            missing.append("there is no network link")
        missing += [
            f"another machine uses {address.interface.ip}"
            for address in observed.addresses
            if address.duplicate and address.index in {entry.link.index for entry in selection.managed}
        ]
        if missing:
            return waiting("; ".join(missing), "goes on by itself when the link, the cable or the server is there")
        return CONVERGED

    async def stop(self) -> None:
        """Stop the DHCP clients; leases, addresses and tunnels stay, for the next machined."""
        await self._clients.stop()
        self._tunnels.close()
