"""The network concern against the real kernel and a DHCP server, in a network namespace of its own.

The test runs this file again as a program inside of ``unshare --user --net``: there it is root of a network that nobody else sees.
A veth pair joins it with a second namespace, where a small DHCP server answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pyroute2.iproute.linux import AsyncIPRoute

from basalt.config.documents import Bridge, Dns, Link, NetworkConfig, Route
from machined.network.dhcp.message import Kind, Message, Option, decode, encode
from machined.network.dhcp.message6 import Kind6, Message6, Option6, decode6, duid, encode6
from machined.network.model import (
    ROUTER_ADVERTISEMENT,
    RTPROT_RA,
    BridgeTraits,
    DeleteLink,
    DesiredRoute,
    Observed,
    PutRoute,
    RemoveAddress,
    RemoveRoute,
    SetLink,
)
from machined.network.netlink import Events, Netlink
from machined.network.reconciler import NetworkReconciler
from machined.network.view import ReachableAddress
from machined.paths import RTPROT_DHCP, Paths
from machined.reconcile import Board, Reconciler, State

_UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]
_CLONE_NEWNET = 0x40000000


def _namespaces_work() -> bool:
    if not shutil.which("unshare") or not sys.platform.startswith("linux"):
        return False
    return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _namespaces_work(), reason="this machine gives ordinary users no network namespaces")
@pytest.mark.parametrize(
    "scenario",
    [
        "static_and_dhcp",
        "drift_heals",
        "restart_disturbs_nothing",
        "renewal",
        "renumbering",
        "refused_route_is_said",
        "dhcp6_grants_renews_and_gets_it_back",
        "duplicate_of_dhcp6_is_declined",
        "routers_are_followed_or_not",
        "bridges_are_made_and_unmade",
    ],
)
def test_in_a_namespace(scenario: str) -> None:
    child = subprocess.run(
        [*_UNSHARE, sys.executable, __file__, scenario],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == 0, child.stdout + child.stderr


# --- inside of the namespace --------------------------------------------------------------------------------------------------


def dhcp_server(log: Path, renew_after_s: int) -> None:
    """Grants 10.55.0.73 for an hour to whoever asks on dh0, and writes down each request."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"dh0\0")
    sock.bind(("", 67))
    server = ipaddress.IPv4Address("10.55.0.1").packed
    while True:
        data, _ = sock.recvfrom(4096)
        request = decode(b"\2" + data[1:])
        with log.open("a") as stream:
            stream.write(json.dumps([request.kind.name, str(request.client)]) + "\n")
        options = {
            int(Option.SERVER): server,
            int(Option.LEASE_TIME): (3600).to_bytes(4),
            int(Option.T1): renew_after_s.to_bytes(4),
            int(Option.MASK): bytes((255, 255, 255, 0)),
            int(Option.ROUTERS): server,
            int(Option.DNS): server,
        }
        kind = Kind.OFFER if request.kind is Kind.DISCOVER else Kind.ACK
        reply = bytearray(encode(Message(kind, request.transaction, request.mac, options=options)))
        reply[0] = 2
        reply[16:20] = ipaddress.IPv4Address("10.55.0.73").packed
        to = str(request.client) if int(request.client) else "255.255.255.255"
        sock.sendto(bytes(reply), (to, 68))


def dhcp6_server(log: Path) -> None:
    """Grants 2001:db8:6::77 to whoever asks on dh0, to be renewed after two seconds, and writes down each message."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"dh0\0")
    sock.bind(("::", 547))
    group = ipaddress.IPv6Address("ff02::1:2").packed + struct.pack("=I", socket.if_nametoindex("dh0"))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    address = ipaddress.IPv6Address("2001:db8:6::77").packed
    while True:
        data, sender = sock.recvfrom(4096)
        asked = decode6(data)
        with log.open("a") as stream:
            stream.write(f"{asked.kind.name}6\n")
        association = (asked.option(Option6.IA_NA) or b"")[:4]
        granted = association + struct.pack("!IIHH16sII", 2, 900, Option6.IA_ADDRESS, 24, address, 1800, 3600)
        options = (
            (int(Option6.CLIENT_ID), asked.option(Option6.CLIENT_ID) or b""),
            (int(Option6.SERVER_ID), b"\0\3\0\1server"),
            (int(Option6.PREFERENCE), b"\xff"),
            (int(Option6.IA_NA), granted),
            (int(Option6.DNS), ipaddress.IPv6Address("2001:db8:6::53").packed),
        )
        kind = Kind6.ADVERTISE if asked.kind is Kind6.SOLICIT else Kind6.REPLY
        with contextlib.suppress(OSError):  # its own link-local address is still being checked: the client asks again
            sock.sendto(encode6(Message6(kind, asked.transaction, options)), sender)


def router(log: Path) -> None:
    """Advertises 2001:db8:a::/64, itself as a default router, and a DNS server, whenever it is asked on dh0."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"dh0\0")
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    index = socket.if_nametoindex("dh0")
    group = ipaddress.IPv6Address("ff02::2").packed + struct.pack("=I", index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 1800, 0, ipaddress.IPv6Address("2001:db8:a::").packed)
    servers = struct.pack("!BBHI16s", 25, 3, 0, 3600, ipaddress.IPv6Address("2001:db8:a::53").packed)
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + servers
    while True:
        if sock.recv(2048)[0] == 133:
            with log.open("a") as stream:
                stream.write("SOLICITATION\n")
            with contextlib.suppress(OSError):  # its own link-local address is still being checked
                sock.sendto(advertisement, ("ff02::1", 0, 0, index))


def unshare_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "unshare")


async def configure_server_side(address6: str | None) -> None:
    async with AsyncIPRoute() as ipr:
        (index,) = await ipr.link_lookup(ifname="dh0")
        await ipr.addr("add", index=index, address="10.55.0.1", prefixlen=24)
        if address6:
            await ipr.addr("add", index=index, address=address6, prefixlen=128)
        await ipr.link("set", index=index, state="up")


def start_server(log: Path, renew_after_s: int, address6: str | None = None) -> int:
    """The second namespace, in a child: it unshares, is handed its end of the veth pair, and serves."""
    ready, proceed = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        unshare_network()
        os.write(ready[1], b"x")
        os.read(proceed[0], 1)
        asyncio.run(configure_server_side(address6))
        threading.Thread(target=dhcp6_server, args=(log,), daemon=True).start()
        threading.Thread(target=router, args=(log,), daemon=True).start()
        os.write(ready[1], b"x")
        dhcp_server(log, renew_after_s)
    os.read(ready[0], 1)

    async def hand_over() -> None:
        async with AsyncIPRoute() as ipr:
            await ipr.link("add", ifname="eth0", kind="veth", peer={"ifname": "dh0"})
            (index,) = await ipr.link_lookup(ifname="dh0")
            await ipr.link("set", index=index, net_ns_pid=pid)

    asyncio.run(hand_over())
    os.write(proceed[1], b"x")
    os.read(ready[0], 1)
    return pid


@dataclasses.dataclass
class World:
    """A running network concern."""

    netlink: Netlink
    network: NetworkReconciler
    reconciler: Reconciler
    board: Board
    announced: list[ReachableAddress]
    config: list[NetworkConfig]
    node: Paths

    async def until(self, what: Callable[[Observed], bool]) -> Observed:
        """Wait until the kernel shows *what*; the caller's own time limit ends the wait."""
        while not what(observed := await self.netlink.observe()):
            await asyncio.sleep(0.02)
        return observed


@contextlib.asynccontextmanager
async def running(root: Path, config: NetworkConfig) -> AsyncIterator[World]:
    node = Paths(str(root))
    node.proc = Path("/proc")  # shows this namespace's network
    node.etc.mkdir(parents=True, exist_ok=True)
    node.leases.mkdir(parents=True, exist_ok=True)
    announced: list[ReachableAddress] = []
    board = Board()
    with contextlib.closing(Netlink()) as netlink:
        current = [config]
        reconcilers: list[Reconciler] = []
        network = NetworkReconciler(
            netlink,
            node,
            config=lambda: current[0],
            hostname=lambda: "node",
            duid=lambda: duid("00" * 16),
            on_lease_change=lambda: reconcilers[0].trigger(),
            announce=announced.append,
        )
        reconciler = Reconciler("network", network.reconcile, board, every_s=3600)
        reconcilers.append(reconciler)
        events = Events(reconciler.trigger, network.hear, network.duplicate)
        events.start()
        task = asyncio.create_task(reconciler.run())
        try:
            yield World(netlink, network, reconciler, board, announced, current, node)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await network.stop()
            events.close()


BOTH = NetworkConfig(
    links=(
        Link(
            name="eth0",
            dhcp4=True,
            mtu=1400,
            addresses=("192.0.2.5/24", "2001:db8::5/64"),
            routes=(Route(to="198.51.100.0/24", via="192.0.2.1"),),
            slaac=False,  # there is a router, which may answer at any time
        ),
    ),
    dns=Dns(servers=("192.0.2.53",)),
)


def has_address(text: str) -> Callable[[Observed], bool]:
    return lambda observed: any(str(address.interface) == text for address in observed.addresses)


def has_route(text: str) -> Callable[[Observed], bool]:
    return lambda observed: any(str(route.destination) == text for route in observed.routes)


async def converged(world: World) -> None:
    while world.board.state_of("network") is not State.CONVERGED:
        await asyncio.sleep(0.02)


async def static_and_dhcp(root: Path, log: Path) -> None:
    async with running(root, BOTH) as world:
        await world.until(has_address("10.55.0.73/24"))
        await converged(world)
        observed = await world.until(has_route("0.0.0.0/0"))
        assert has_address("192.0.2.5/24")(observed)
        assert has_route("198.51.100.0/24")(observed)
        leased = next(address for address in observed.addresses if str(address.interface) == "10.55.0.73/24")
        assert leased.protocol == RTPROT_DHCP
        assert leased.valid_until is not None
        assert next(link for link in observed.links if link.name == "eth0").mtu == 1400
        await world.until(lambda _: any(entry.address == "2001:db8::5/64" for entry in world.network.addresses))
        assert {entry.source for entry in world.network.addresses} == {"static", "dhcp4"}
        assert (world.node.etc / "resolv.conf").read_text() == "nameserver 192.0.2.53\nnameserver 10.55.0.1\n"


async def drift_heals(root: Path, log: Path) -> None:
    async with running(root, BOTH) as world:
        observed = await world.until(has_address("10.55.0.73/24"))
        observed = await world.until(has_route("0.0.0.0/0"))
        for address in observed.addresses:
            if str(address.interface) in ("10.55.0.73/24", "192.0.2.5/24"):
                await world.netlink.apply(RemoveAddress(address))
        for route in (await world.netlink.observe()).routes:
            if str(route.destination) == "198.51.100.0/24":
                await world.netlink.apply(RemoveRoute(route))
        for wanted in (
            has_address("10.55.0.73/24"),
            has_address("192.0.2.5/24"),
            has_route("198.51.100.0/24"),
            has_route("0.0.0.0/0"),
        ):
            await world.until(wanted)
        index = next(link.index for link in observed.links if link.name == "eth0")
        await world.netlink.apply(SetLink(index, "eth0", up=False))
        await world.until(has_route("0.0.0.0/0"))
        await converged(world)


async def restart_disturbs_nothing(root: Path, log: Path) -> None:
    async with running(root, BOTH) as world:
        await world.until(has_address("10.55.0.73/24"))
        await converged(world)
    requests = log.read_text()
    async with running(root, BOTH) as world:
        before = await world.netlink.observe()
        assert has_address("10.55.0.73/24")(before)  # the one that stopped left it in place
        assert await world.reconciler.settle(30)
        await converged(world)
        after = await world.netlink.observe()
        assert before.routes == after.routes
        assert {address.interface for address in before.addresses} == {address.interface for address in after.addresses}
    assert log.read_text() == requests  # nobody was asked anything


async def renewal(root: Path, log: Path) -> None:
    async with running(root, BOTH) as world:
        await world.until(has_address("10.55.0.73/24"))
        await world.until(lambda _: '["REQUEST", "10.55.0.73"]' in log.read_text())
        await converged(world)


async def renumbering(root: Path, log: Path) -> None:
    async with running(root, BOTH) as world:
        await world.until(has_address("10.55.0.73/24"))
        await world.until(has_route("0.0.0.0/0"))
        world.config[0] = NetworkConfig(links=(Link(name="eth0", addresses=("203.0.113.5/24",)),))
        world.reconciler.trigger()
        await world.until(
            lambda observed: has_address("203.0.113.5/24")(observed) and not has_address("10.55.0.73/24")(observed)
        )
        observed = await world.until(lambda observed: not has_address("192.0.2.5/24")(observed))
        assert not has_route("198.51.100.0/24")(observed)
        assert not has_route("0.0.0.0/0")(observed)
        assert not list(world.node.leases.iterdir())


async def refused_route_is_said(root: Path, log: Path) -> None:
    config = NetworkConfig(
        links=(Link(name="eth0", addresses=("192.0.2.5/24",), routes=(Route(to="default", via="10.99.0.1"),)),)
    )
    async with running(root, config) as world:
        while world.board.state_of("network") is not State.FAILED:
            await asyncio.sleep(0.02)
        assert "route 0.0.0.0/0 via 10.99.0.1" in world.board.entries()["network"].status.reason
        assert has_address("192.0.2.5/24")(await world.netlink.observe())  # one refusal keeps nothing else back
        with pytest.raises(OSError, match=r"unreachable \(Nexthop has invalid gateway\)"):  # the kernel's own words
            await world.netlink.apply(
                PutRoute(DesiredRoute(2, ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_address("10.98.0.1")))
            )


async def dhcp6_grants_renews_and_gets_it_back(root: Path, log: Path) -> None:
    async with running(root, NetworkConfig(links=(Link(name="eth0", dhcp6=True, slaac=False),))) as world:
        await world.until(has_address("2001:db8:6::77/128"))
        await world.until(lambda _: "RENEW6" in log.read_text())
        await converged(world)
        assert not [line for line in log.read_text().splitlines() if line.startswith("[")]  # nobody asked for IPv4
        await world.until(lambda _: any(address.source == "dhcp6" for address in world.network.addresses))
        assert (world.node.etc / "resolv.conf").read_text() == "nameserver 2001:db8:6::53\n"
        world.config[0] = NetworkConfig(links=(Link(name="eth0", slaac=False),))
        world.reconciler.trigger()
        await world.until(lambda observed: not has_address("2001:db8:6::77/128")(observed))
        await world.until(lambda _: "RELEASE6" in log.read_text())


async def duplicate_of_dhcp6_is_declined(root: Path, log: Path) -> None:
    async with running(root, NetworkConfig(links=(Link(name="eth0", dhcp6=True, slaac=False),))) as world:
        await world.until(lambda _: "DECLINE6" in log.read_text())
        assert all(address.address != "2001:db8:6::77/128" for address in world.network.addresses)


async def routers_are_followed_or_not(root: Path, log: Path) -> None:
    def advertised(observed: Observed) -> bool:
        return any(address.protocol == ROUTER_ADVERTISEMENT for address in observed.addresses)

    def by_router(observed: Observed) -> bool:
        return any(route.protocol == RTPROT_RA for route in observed.routes)

    async with running(root, NetworkConfig(links=(Link(name="eth0", addresses=("2001:db8::5/64",)),))) as world:
        await world.until(lambda observed: advertised(observed) and by_router(observed))
        resolvers = world.node.etc / "resolv.conf"
        await world.until(lambda _: resolvers.read_text() == "nameserver 2001:db8:a::53\n")
        world.config[0] = NetworkConfig(
            links=(
                Link(
                    name="eth0",
                    slaac=False,
                    addresses=("2001:db8::5/64",),
                    routes=(Route(to="2001:db8:f::/48", via="2001:db8::1"),),
                ),
            )
        )
        world.reconciler.trigger()
        await world.until(lambda observed: not advertised(observed) and not by_router(observed))
        await world.until(has_route("2001:db8:f::/48"))
        await world.until(lambda _: resolvers.read_text() == "")
        await converged(world)
        assert has_address("2001:db8::5/64")(await world.netlink.observe())
        world.config[0] = NetworkConfig(links=(Link(name="eth0"),))
        world.reconciler.trigger()
        await world.until(lambda observed: advertised(observed) and by_router(observed))  # asked for, not waited for


async def bridges_are_made_and_unmade(root: Path, log: Path) -> None:
    config = NetworkConfig(links=(Link(name="br0", bridge=Bridge(links=("eth0",)), addresses=("192.0.2.5/24",)),))
    async with running(root, config) as world:
        observed = await world.until(has_address("192.0.2.5/24"))
        bridge = next(link for link in observed.links if link.name == "br0")
        assert bridge.ours and bridge.kind == "bridge" and bridge.traits == BridgeTraits(False, False)
        assert next(link for link in observed.links if link.name == "eth0").master == bridge.index
        await converged(world)
        await world.netlink.apply(DeleteLink(bridge.index, "br0"))
        await world.until(has_address("192.0.2.5/24"))
        await converged(world)
        view = {link.link.name: link for link in await world.network.links()}
        assert (view["eth0"].master, view["br0"].kind) == ("br0", "bridge")
        world.config[0] = NetworkConfig(links=(Link(name="eth0"),))
        world.reconciler.trigger()
        await world.until(lambda observed: all(link.name != "br0" for link in observed.links))
        assert all(link.master == 0 for link in (await world.netlink.observe()).links)


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root, log = Path(directory), Path(directory) / "requests"
        log.touch()
        duplicate = "2001:db8:6::77" if name == "duplicate_of_dhcp6_is_declined" else None
        pid = start_server(log, renew_after_s=2 if name == "renewal" else 1800, address6=duplicate)
        try:
            asyncio.run(asyncio.wait_for(globals()[name](root, log), 90))
        finally:
            os.kill(pid, 9)


if __name__ == "__main__":
    main(sys.argv[1])
