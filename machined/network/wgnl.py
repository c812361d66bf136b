"""WireGuard in the kernel, over generic netlink (include/uapi/linux/wireguard.h).

Encoded here: pyroute2's classes for it come with its sockets, which the node has no use for (:mod:`machined.network.rtnl`).
"""

from __future__ import annotations

import base64
import ipaddress
import socket
import struct
from collections.abc import Iterator

from machined.network.kernel import (
    F_ACK,
    F_DUMP,
    HEADER,
    NESTED,
    NETLINK_GENERIC,
    Conversation,
    attribute,
    attributes,
    frame,
)
from machined.network.wireguard import Endpoint, KeyText, Peer, PeerChange, Tunnel, TunnelChange

_GENL = struct.Struct("=BBH")  # struct genlmsghdr: command, version
_ID_CTRL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 0x10, 3, 1, 2
_GET_DEVICE, _SET_DEVICE = 0, 1
_D_IFINDEX, _D_PRIVATE_KEY, _D_PUBLIC_KEY, _D_LISTEN_PORT, _D_PEERS = 1, 3, 4, 6, 8
_P_PUBLIC_KEY, _P_PRESHARED_KEY, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE = 1, 2, 3, 4, 5
_P_HANDSHAKE, _P_RECEIVED, _P_SENT, _P_ALLOWED = 6, 7, 8, 9
_A_FAMILY, _A_ADDRESS, _A_PREFIX = 1, 2, 3
_REMOVE, _REPLACE_ALLOWED = 0x1, 0x2
_PEERS_AT_ONCE = 32  # a message has at most 64 KiB


class WireguardSocket:
    """Reads and sets tunnels."""

    def __init__(self) -> None:
        self._kernel = Conversation(NETLINK_GENERIC)
        self._family = 0

    def close(self) -> None:
        """Close the socket."""
        self._kernel.close()

    async def read(self, index: int) -> Tunnel:
        """The tunnel that is link *index*.

        :raises OSError: there is none.
        """
        payload = _GENL.pack(_GET_DEVICE, 1, 0) + attribute(_D_IFINDEX, struct.pack("=I", index))
        family = await self._find_family()
        messages = [
            message async for _, _, message in self._kernel.ask(family, F_DUMP, lambda header: frame(header, payload))
        ]
        return decode_tunnel(index, [message[HEADER.size + _GENL.size :] for message in messages])

    async def change(self, change: TunnelChange) -> None:
        """Carry *change* out.

        :raises OSError: the kernel refused it.
        """
        family = await self._find_family()
        for body in encode_change(change):
            payload = _GENL.pack(_SET_DEVICE, 1, 0) + body
            async for _ in self._kernel.ask(family, F_ACK, lambda header, payload=payload: frame(header, payload)):  # type: ignore[misc]
                pass

    async def _find_family(self) -> int:
        if not self._family:
            payload = _GENL.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"wireguard\0")
            async for _, _, message in self._kernel.ask(_ID_CTRL, 0, lambda header: frame(header, payload)):
                found = dict(attributes(message[HEADER.size + _GENL.size :]))
                (self._family,) = struct.unpack("=H", found[_FAMILY_ID])
        return self._family


def encode_change(change: TunnelChange) -> Iterator[bytes]:
    """The attributes of the messages that carry *change* out."""
    head = attribute(_D_IFINDEX, struct.pack("=I", change.index))
    first = head
    if change.private_key is not None:
        first += attribute(_D_PRIVATE_KEY, base64.b64decode(change.private_key))
    if change.listen_port is not None:
        first += attribute(_D_LISTEN_PORT, struct.pack("=H", change.listen_port))
    for at in range(0, max(len(change.peers), 1), _PEERS_AT_ONCE):
        peers = b"".join(_encode_peer(peer) for peer in change.peers[at : at + _PEERS_AT_ONCE])
        yield (first if at == 0 else head) + (attribute(_D_PEERS | NESTED, peers) if peers else b"")


def _encode_peer(peer: PeerChange) -> bytes:
    data = attribute(_P_PUBLIC_KEY, base64.b64decode(peer.public_key))
    flags = (_REMOVE if peer.remove else 0) | (_REPLACE_ALLOWED if peer.allowed_ips is not None else 0)
    data += attribute(_P_FLAGS, struct.pack("=I", flags))
    if peer.preshared_key is not None:
        data += attribute(_P_PRESHARED_KEY, base64.b64decode(peer.preshared_key))
    if peer.endpoint is not None:
        data += attribute(_P_ENDPOINT, _encode_endpoint(peer.endpoint))
    if peer.keepalive_s is not None:
        data += attribute(_P_KEEPALIVE, struct.pack("=H", peer.keepalive_s))
    if peer.allowed_ips:
        data += attribute(_P_ALLOWED | NESTED, b"".join(_encode_allowed(text) for text in sorted(peer.allowed_ips)))
    return attribute(NESTED, data)


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    address = ipaddress.ip_address(endpoint[0])
    port = struct.pack("!H", endpoint[1])
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + address.packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + address.packed + bytes(4)


def _encode_allowed(text: str) -> bytes:
    network = ipaddress.ip_network(text)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return attribute(
        NESTED,
        attribute(_A_FAMILY, struct.pack("=H", family))
        + attribute(_A_ADDRESS, network.network_address.packed)
        + attribute(_A_PREFIX, bytes((network.prefixlen,))),
    )


def decode_tunnel(index: int, messages: list[bytes]) -> Tunnel:
    """A tunnel from the messages of a dump; a peer with many networks comes in several pieces."""
    private, public, port = bytes(32), bytes(32), 0
    peers: dict[str, Peer] = {}
    for message in messages:
        for kind, value in attributes(message):
            if kind == _D_PRIVATE_KEY:
                private = value
            elif kind == _D_PUBLIC_KEY:
                public = value
            elif kind == _D_LISTEN_PORT:
                (port,) = struct.unpack("=H", value)
            elif kind == _D_PEERS:
                for _, data in attributes(value):
                    _add(peers, _decode_peer(data))
    return Tunnel(index, KeyText(_text(private)), _text(public), port, tuple(peers.values()))


def _add(peers: dict[str, Peer], peer: Peer) -> None:
    have = peers.get(peer.public_key)
    if have is None:
        peers[peer.public_key] = peer
        return
    peers[peer.public_key] = Peer(
        have.public_key,
        have.preshared_key,
        have.endpoint,
        have.allowed_ips | peer.allowed_ips,
        have.keepalive_s,
        have.last_handshake_unix,
        have.received_bytes,
        have.sent_bytes,
    )


def _decode_peer(data: bytes) -> Peer:
    found = dict(attributes(data))

    def number(kind: int, layout: str) -> int:
        return int(struct.unpack_from(layout, found[kind])[0]) if kind in found else 0

    return Peer(
        public_key=_text(found[_P_PUBLIC_KEY]),
        preshared_key=KeyText(_text(found.get(_P_PRESHARED_KEY, bytes(32)))),
        endpoint=_decode_endpoint(found[_P_ENDPOINT]) if _P_ENDPOINT in found else None,
        allowed_ips=frozenset(_decode_allowed(value) for _, value in attributes(found.get(_P_ALLOWED, b""))),
        keepalive_s=number(_P_KEEPALIVE, "=H"),
        last_handshake_unix=number(_P_HANDSHAKE, "=q"),
        received_bytes=number(_P_RECEIVED, "=Q"),
        sent_bytes=number(_P_SENT, "=Q"),
    )


def _decode_endpoint(data: bytes) -> Endpoint:
    (family,) = struct.unpack_from("=H", data)
    (port,) = struct.unpack_from("!H", data, 2)
    packed = data[4:8] if family == socket.AF_INET else data[8:24]
    return str(ipaddress.ip_address(packed)), port


def _decode_allowed(data: bytes) -> str:
    found = dict(attributes(data))
    return f"{ipaddress.ip_address(found[_A_ADDRESS])}/{found[_A_PREFIX][0]}"


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
