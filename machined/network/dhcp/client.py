"""One DHCP client per link: the state machine with sockets, a clock and a file for the lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from machined.network.dhcp import lease as leases
from machined.network.dhcp.lease import Lease
from machined.network.dhcp.machine import Action, Bound, Lost, Machine, Send, State
from machined.network.dhcp.message import MalformedError, decode, encode
from machined.network.dhcp.sockets import LinkSockets, unwrap

_RECEIVE_BYTES = 4096
_REOPEN_S = 2.0  # after the link's socket failed (it went down, or away)


def boottime() -> float:
    """Seconds since boot, suspend included; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Client:
    """Keeps a lease for one link as long as it runs.

    :param on_change: called when the lease is new, extended or lost; :attr:`lease` and :attr:`doing` are then up to date.
    """

    def __init__(self, link: str, mac: str, hostname: str, lease_path: Path, on_change: Callable[[], None]) -> None:
        self._link = link
        self._path = lease_path
        self._on_change = on_change
        self._machine = Machine(bytes.fromhex(mac.replace(":", "")), hostname)
        self._task: asyncio.Task[None] | None = None
        self.since = boottime()

    @property
    def lease(self) -> Lease | None:
        """The lease in force."""
        return self._machine.lease

    @property
    def doing(self) -> str:
        """What the client is at, in words."""
        return self._machine.state.value

    @property
    def bound(self) -> bool:
        """Whether there is a lease and no trouble about it."""
        return self._machine.lease is not None and self._machine.state is not State.REBINDING

    def start(self) -> None:
        """Begin, with the lease of an earlier run where one is kept."""
        kept = leases.load(self._path)
        now = boottime()
        actions = self._machine.resume(kept, now) if kept else self._machine.start(now)
        self._task = asyncio.get_running_loop().create_task(self._run(actions), name=f"dhcp {self._link}")

    def link_came_back(self) -> None:
        """The carrier returned: ask whether the address still holds."""
        if self._task:
            self._task.cancel()
        self._task = asyncio.get_running_loop().create_task(
            self._run(self._machine.link_came_back(boottime())), name=f"dhcp {self._link}"
        )

    async def stop(self, *, forget: bool) -> None:
        """Stop; *forget* the lease too when the link is no longer meant to have one (a restart of machined keeps it)."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if forget:
            self._path.unlink(missing_ok=True)

    async def _run(self, actions: list[Action]) -> None:
        while True:
            try:
                sockets = LinkSockets(self._link)
            except OSError as error:
                print(f"dhcp: {self._link}: {error}", flush=True)
                await asyncio.sleep(_REOPEN_S)
                continue
            try:
                await self._converse(sockets, actions)
            except OSError as error:
                print(f"dhcp: {self._link}: {error}", flush=True)
                await asyncio.sleep(_REOPEN_S)
            finally:
                sockets.close()
            actions = []

    async def _converse(self, sockets: LinkSockets, actions: list[Action]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._carry_out(actions, sockets)
            try:
                async with asyncio.timeout(max(0.0, self._machine.deadline - boottime())):
                    packet = await loop.sock_recv(sockets.packets, _RECEIVE_BYTES)
            except TimeoutError:
                actions = self._machine.on_deadline(boottime())
                continue
            try:
                actions = self._machine.on_message(decode(unwrap(packet)), boottime())
            except MalformedError:
                actions = []  # anybody on the link can send anything

    def _carry_out(self, actions: list[Action], sockets: LinkSockets) -> None:
        for action in actions:
            match action:
                case Send(message, server):
                    try:
                        sockets.send(encode(message), server)
                    except OSError as error:  # no route to the server, link down: the deadline brings the next try
                        print(f"dhcp: {self._link}: {error}", flush=True)
                case Bound(lease):
                    leases.save(lease, self._path)
                    self.since = boottime()
                    self._on_change()
                case Lost(reason):
                    print(f"dhcp: {self._link}: {reason}", flush=True)
                    self._path.unlink(missing_ok=True)
                    self.since = boottime()
                    self._on_change()
