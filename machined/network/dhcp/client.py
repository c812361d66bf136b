"""One DHCP client per link and family: a state machine with sockets, a clock and a file for the lease."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from machined.network.dhcp import lease as leases
from machined.network.dhcp.lease import Lease, Lease6
from machined.network.dhcp.machine import Bound, Lost, Machine, State
from machined.network.dhcp.machine6 import Machine6
from machined.network.dhcp.message import MalformedError, decode, encode
from machined.network.dhcp.message6 import decode6, encode6
from machined.network.dhcp.sockets import LinkSocket6, LinkSockets, unwrap

_RECEIVE_BYTES = 4096
_REOPEN_S = 2.0  # after the link's socket failed (it went down, or away)


def boottime() -> float:
    """Seconds since boot, suspend included; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Wire(Protocol):
    """The sockets of a client, in terms of its state machine's messages."""

    packets: socket.socket

    def send(self, action: Any) -> None:
        """Send what an action asks for.

        :raises OSError: it could not be sent now.
        """

    def read(self, packet: bytes) -> Any:
        """The message in a packet.

        :raises MalformedError: there is none.
        """

    def close(self) -> None:
        """Close the sockets."""


class _Wire4:
    def __init__(self, link: str) -> None:
        self._sockets = LinkSockets(link)
        self.packets = self._sockets.packets

    def send(self, action: Any) -> None:
        self._sockets.send(encode(action.message), action.server)

    def read(self, packet: bytes) -> Any:
        return decode(unwrap(packet))

    def close(self) -> None:
        self._sockets.close()


class _Wire6:
    def __init__(self, link: str) -> None:
        self._socket = LinkSocket6(link)
        self.packets = self._socket.packets

    def send(self, action: Any) -> None:
        self._socket.send(encode6(action.message))

    def read(self, packet: bytes) -> Any:
        return decode6(packet)

    def close(self) -> None:
        self._socket.close()


AnyLease = TypeVar("AnyLease", Lease, Lease6)


class Client(Generic[AnyLease]):
    """Keeps a lease for one link as long as it runs.

    :param machine: a :class:`Machine` or :class:`Machine6`.
    :param on_change: called when the lease is new, extended or lost; :attr:`lease` and :attr:`doing` are then up to date.
    """

    def __init__(
        self,
        link: str,
        machine: Any,
        open_wire: Callable[[str], Wire],
        keep: Callable[[AnyLease, Path], None],
        recall: Callable[[Path], AnyLease | None],
        lease_path: Path,
        on_change: Callable[[], None],
    ) -> None:
        self._link = link
        self._machine = machine
        self._open = open_wire
        self._keep: Callable[[AnyLease, Path], None] = keep
        self._recall: Callable[[Path], AnyLease | None] = recall
        self._path = lease_path
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None

    @property
    def lease(self) -> AnyLease | None:
        """The lease in force."""
        lease: AnyLease | None = self._machine.lease
        return lease

    @property
    def doing(self) -> str:
        """What the client is at, in words."""
        return str(self._machine.state.value)

    @property
    def bound(self) -> bool:
        """Whether there is a lease and no trouble about it."""
        return self._machine.lease is not None and self._machine.state is not State.REBINDING

    def start(self) -> None:
        """Begin, with the lease of an earlier run where one is kept."""
        kept = self._recall(self._path)
        now = boottime()
        self._begin(self._machine.resume(kept, now) if kept else self._machine.start(now))

    def link_came_back(self) -> None:
        """The carrier returned: ask whether the address still holds."""
        self._begin(self._machine.link_came_back(boottime()))

    def decline(self) -> None:
        """Another machine uses the address. DHCPv4 has no say in that here: nothing looks for such a machine."""
        if isinstance(self._machine, Machine6):
            self._begin(self._machine.decline(boottime()))

    def _begin(self, actions: list[Any]) -> None:
        """Go on with *actions*, whatever was waited for."""
        if self._task:
            self._task.cancel()
        self._task = asyncio.get_running_loop().create_task(self._run(actions), name=f"dhcp {self._link}")

    async def stop(self, *, forget: bool) -> None:
        """Stop; *forget* the lease too when the link is no longer meant to have one (a restart of machined keeps it)."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if forget:
            self._path.unlink(missing_ok=True)
            self._give_back()

    def _give_back(self) -> None:
        """Tell the server, if it can be told; a lease that is not given back runs out by itself."""
        if isinstance(self._machine, Machine6):
            actions = self._machine.release(boottime())
            with contextlib.suppress(OSError):
                wire = self._open(self._link)
                with contextlib.closing(wire):
                    for action in actions:
                        wire.send(action)

    async def _run(self, actions: list[Any]) -> None:
        while True:
            try:
                wire = self._open(self._link)
            except OSError as error:
                print(f"dhcp: {self._link}: {error}", flush=True)
                await asyncio.sleep(_REOPEN_S)
                continue
            try:
                await self._converse(wire, actions)
            except OSError as error:
                print(f"dhcp: {self._link}: {error}", flush=True)
                await asyncio.sleep(_REOPEN_S)
            finally:
                wire.close()
            actions = []

    async def _converse(self, wire: Wire, actions: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._carry_out(actions, wire)
            try:
                async with asyncio.timeout(max(0.0, self._machine.deadline - boottime())):
                    packet = await loop.sock_recv(wire.packets, _RECEIVE_BYTES)
            except TimeoutError:
                actions = self._machine.on_deadline(boottime())
                continue
            try:
                actions = self._machine.on_message(wire.read(packet), boottime())
            except MalformedError:
                actions = []  # anybody on the link can send anything

    def _carry_out(self, actions: list[Any], wire: Wire) -> None:
        for action in actions:
            match action:
                case Bound():
                    if self.lease is not None:
                        self._keep(self.lease, self._path)
                    self._on_change()
                case Lost(reason):
                    print(f"dhcp: {self._link}: {reason}", flush=True)
                    self._path.unlink(missing_ok=True)
                    self._on_change()
                case _:
                    try:
                        wire.send(action)
                    except OSError as error:  # no route to the server, link down: the deadline brings the next try
                        print(f"dhcp: {self._link}: {error}", flush=True)


def client4(link: str, mac: str, hostname: str, lease_path: Path, on_change: Callable[[], None]) -> Client[Lease]:
    """A DHCPv4 client."""
    machine = Machine(bytes.fromhex(mac.replace(":", "")), hostname)
    return Client(link, machine, _Wire4, leases.save, leases.load, lease_path, on_change)


def client6(link: str, duid: bytes, lease_path: Path, on_change: Callable[[], None]) -> Client[Lease6]:
    """A DHCPv6 client. Links are told apart by a number made of their names, which servers remember addresses by."""
    association = int.from_bytes(hashlib.blake2s(link.encode(), digest_size=4).digest())
    return Client(link, Machine6(duid, association), _Wire6, leases.save6, leases.load6, lease_path, on_change)
