"""Keeps WireGuard tunnels as the configuration wants them: keys, peers, and names turned into addresses.

A private key that the configuration does not give is made here, once, and kept on STATE. Names of endpoints are resolved beside
everything else, for a resolver that does not answer must not keep the rest of the network waiting; and again while a peer is not
heard of.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from basalt.config.documents import Link, WireguardPeerConfig
from basalt.files import write_atomic
from machined.network.desired import Managed
from machined.network.wgnl import WireguardSocket
from machined.network.wireguard import (
    KEY_BYTES,
    NO_KEY,
    Endpoint,
    KeyText,
    Tunnel,
    WantedPeer,
    WantedTunnel,
    changes,
    clamped,
    stale,
)

RESOLVE_AGAIN_S = 30.0


class Tunnels:
    """All tunnels of the node.

    :param keys: directory of the private keys that the node made.
    :param on_change: asks for another look; called when a name got an address.
    """

    def __init__(self, keys: Path, on_change: Callable[[], None]) -> None:
        self._keys = keys
        self._on_change = on_change
        self._socket: WireguardSocket | None = None
        self._told: dict[tuple[int, str], Endpoint] = {}
        self._names = Names(on_change)
        self.waiting: tuple[str, ...] = ()  # what the last look found missing, in words

    async def keep(self, entries: Iterable[Managed]) -> list[str]:
        """Bring the tunnels among *entries* to what is wanted; what could not be done, in words."""
        problems, waiting = [], []
        for entry in entries:
            if entry.wish.wireguard is None:
                continue
            try:
                waiting += await self._keep_one(entry)
            except OSError as error:
                if error.errno == errno.ENODEV:  # it has gone since it was seen; the next look makes it again
                    self._on_change()
                    continue
                problems.append(f"WireGuard on {entry.link.name}: {error.strerror or error}")
        self.waiting = tuple(waiting)
        return problems

    async def read(self, indexes: Iterable[int]) -> dict[int, Tunnel]:
        """What the kernel has; links that have gone meanwhile are left out."""
        found = {}
        for index in indexes:
            with contextlib.suppress(OSError):
                found[index] = await self._kernel().read(index)
        return found

    def close(self) -> None:
        """Close the socket; the tunnels stay."""
        self._names.close()
        if self._socket:
            self._socket.close()
            self._socket = None

    def _kernel(self) -> WireguardSocket:
        if self._socket is None:
            self._socket = WireguardSocket()
        return self._socket

    async def _keep_one(self, entry: Managed) -> list[str]:
        index, wish = entry.link.index, entry.wish
        wireguard = wish.wireguard
        if wireguard is None:
            return []
        have = await self._kernel().read(index)
        now = time.time()
        heard = {peer.public_key: peer for peer in have.peers}
        for peer in wireguard.peers:
            self._names.ask(peer.endpoint, again=stale(heard.get(peer.public_key), now))
        want = WantedTunnel(
            index,
            clamped(wireguard.private_key) if wireguard.private_key else self._own_key(wish),
            wireguard.listen_port,
            tuple(self._peer(peer) for peer in wireguard.peers),
        )
        told = {key: endpoint for (link, key), endpoint in self._told.items() if link == index}
        change = changes(have, want, told, now)
        if not change.empty:
            await self._kernel().change(change)
            self._told |= {(index, peer.public_key): peer.endpoint for peer in change.peers if peer.endpoint}
        return [
            f"{wish.name} does not know the address of {peer.endpoint.rpartition(':')[0]}"
            for peer in wireguard.peers
            if peer.endpoint and self._names.find(peer.endpoint) is None
        ]

    def _peer(self, peer: WireguardPeerConfig) -> WantedPeer:
        return WantedPeer(
            peer.public_key,
            KeyText(peer.preshared_key or NO_KEY),
            self._names.find(peer.endpoint) if peer.endpoint else None,
            frozenset(peer.allowed_ips),
            peer.keepalive_s or 0,
        )

    def _own_key(self, wish: Link) -> KeyText:
        """The key that the node made for this link, made now where there is none.

        :raises OSError: STATE cannot be read or written.
        """
        path = self._keys / f"{wish.name}.key"
        try:
            text = path.read_text(encoding="ascii").strip()
            if len(base64.b64decode(text, validate=True)) == KEY_BYTES:
                return clamped(text)
        except (FileNotFoundError, ValueError):
            pass
        made = clamped(base64.b64encode(os.urandom(KEY_BYTES)).decode())
        self._keys.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, f"{made}\n".encode(), mode=0o600)
        return made


class Names:
    """Host names of endpoints and the addresses that they have."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._addresses: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def find(self, endpoint: str) -> Endpoint | None:
        """Address and port of *endpoint*; None while its name has no address."""
        host, port = _split(endpoint)
        address = host if _is_address(host) else self._addresses.get(host)
        return (address, port) if address else None

    def ask(self, endpoint: str | None, *, again: bool) -> None:
        """Begin to resolve the name of *endpoint*, once, or anew now and then where *again*."""
        if endpoint is None:
            return
        host, _ = _split(endpoint)
        if _is_address(host) or host in self._running or (host in self._addresses and not again):
            return
        now = time.monotonic()
        if host in self._asked and now - self._asked[host] < RESOLVE_AGAIN_S:
            return
        self._asked[host] = now
        self._running[host] = asyncio.get_running_loop().create_task(self._resolve(host), name=f"resolve {host}")

    @property
    def busy(self) -> bool:
        """Whether a question is under way."""
        return bool(self._running)

    async def _resolve(self, host: str) -> None:
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except OSError:  # the next look asks again, and the status says that the name has no address
            answers = []
        finally:
            self._running.pop(host, None)
        if answers and self._addresses.get(host) != answers[0][4][0]:
            self._addresses[host] = str(answers[0][4][0])
            self._on_change()

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._running.values():
            task.cancel()


def _split(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
