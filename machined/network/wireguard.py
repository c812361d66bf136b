"""WireGuard tunnels: what is set, what should be, and the least change between them. Pure.

Peers that stay as they are are not touched, so their sessions go on. An endpoint is only where a peer was last heard of: the kernel
follows a peer that moves, and is not corrected while they talk.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from msgspec import Struct

KEY_BYTES = 32
NO_KEY = base64.b64encode(bytes(KEY_BYTES)).decode()
# REJECT_AFTER_TIME of the WireGuard paper, section 6.5: two ends that can reach each other have shaken hands since.
STALE_S = 180.0

Endpoint = tuple[str, int]  # address and port


class KeyText(str):
    """A secret key in base64, which no representation shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[redacted]'"


def clamped(key: str) -> KeyText:
    """A private key as X25519 uses it, and as the kernel shows it (RFC 7748, section 5)."""
    scalar = bytearray(base64.b64decode(key))
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return KeyText(base64.b64encode(scalar).decode())


class Peer(Struct, frozen=True):
    """A peer as the kernel has it."""

    public_key: str
    preshared_key: KeyText = KeyText(NO_KEY)
    endpoint: Endpoint | None = None
    allowed_ips: frozenset[str] = frozenset()
    keepalive_s: int = 0
    last_handshake_unix: int = 0  # 0 = never
    received_bytes: int = 0
    sent_bytes: int = 0


class Tunnel(Struct, frozen=True):
    """A tunnel as the kernel has it."""

    index: int
    private_key: KeyText
    public_key: str
    listen_port: int
    peers: tuple[Peer, ...] = ()


class WantedPeer(Struct, frozen=True):
    """A peer as the configuration wants it; *endpoint* None while its name has no address, or it has none."""

    public_key: str
    preshared_key: KeyText = KeyText(NO_KEY)
    endpoint: Endpoint | None = None
    allowed_ips: frozenset[str] = frozenset()
    keepalive_s: int = 0


class WantedTunnel(Struct, frozen=True):
    """A tunnel as the configuration wants it; *listen_port* None leaves the choice to the kernel."""

    index: int
    private_key: KeyText
    listen_port: int | None = None
    peers: tuple[WantedPeer, ...] = ()


class PeerChange(Struct, frozen=True):
    """What changes about one peer; None leaves that part as it is."""

    public_key: str
    remove: bool = False
    preshared_key: KeyText | None = None
    endpoint: Endpoint | None = None
    allowed_ips: frozenset[str] | None = None
    keepalive_s: int | None = None


class TunnelChange(Struct, frozen=True):
    """What changes about a tunnel."""

    index: int
    private_key: KeyText | None = None
    listen_port: int | None = None
    peers: tuple[PeerChange, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return self.private_key is None and self.listen_port is None and not self.peers


def changes(have: Tunnel, want: WantedTunnel, told: Mapping[str, Endpoint], now_unix: float) -> TunnelChange:
    """The least change from *have* to *want*.

    :param told: the endpoints that the kernel was given last, by public key.
    """
    present = {peer.public_key: peer for peer in have.peers}
    wanted = {peer.public_key for peer in want.peers}
    gone = [PeerChange(key, remove=True) for key in present if key not in wanted]
    peers = [_peer(present.get(peer.public_key), peer, told.get(peer.public_key), now_unix) for peer in want.peers]
    return TunnelChange(
        want.index,
        private_key=want.private_key if want.private_key != have.private_key else None,
        listen_port=want.listen_port if want.listen_port not in (None, have.listen_port) else None,
        peers=(*gone, *(change for change in peers if change is not None)),
    )


def stale(peer: Peer | None, now_unix: float) -> bool:
    """Whether nothing has been heard of a peer for so long that its endpoint may be wrong."""
    return peer is None or now_unix - peer.last_handshake_unix > STALE_S


def _peer(have: Peer | None, want: WantedPeer, told: Endpoint | None, now_unix: float) -> PeerChange | None:
    if have is None:
        return PeerChange(
            want.public_key,
            preshared_key=want.preshared_key,
            endpoint=want.endpoint,
            allowed_ips=want.allowed_ips,
            keepalive_s=want.keepalive_s,
        )
    moved = want.endpoint != have.endpoint and (
        have.endpoint is None or stale(have, now_unix) or (told is not None and told != want.endpoint)
    )
    change = PeerChange(
        want.public_key,
        preshared_key=want.preshared_key if want.preshared_key != have.preshared_key else None,
        endpoint=want.endpoint if moved else None,
        allowed_ips=want.allowed_ips if want.allowed_ips != have.allowed_ips else None,
        keepalive_s=want.keepalive_s if want.keepalive_s != have.keepalive_s else None,
    )
    return None if change == PeerChange(want.public_key) else change
