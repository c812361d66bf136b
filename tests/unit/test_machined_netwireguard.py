"""WireGuard: the least change, its messages, and keys that show up nowhere."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

from msgspec import structs

from basalt.config.documents import Link
from machined.network.tunnels import Names, Tunnels
from machined.network.wgnl import decode_tunnel, encode_change
from machined.network.wireguard import (
    NO_KEY,
    KeyText,
    Peer,
    PeerChange,
    Tunnel,
    TunnelChange,
    WantedPeer,
    WantedTunnel,
    changes,
    clamped,
)

NOW = 1_800_000_000.0
A, B, C = (base64.b64encode(bytes([n] * 32)).decode() for n in (1, 2, 3))
OWN = clamped(base64.b64encode(b"\xff" * 32).decode())
HERE, THERE = ("192.0.2.1", 51820), ("2001:db8::1", 51820)

HAVE = Tunnel(
    9,
    OWN,
    C,
    51820,
    (
        Peer(A, endpoint=HERE, allowed_ips=frozenset({"10.0.0.0/8"}), last_handshake_unix=int(NOW) - 10),
        Peer(B, allowed_ips=frozenset({"10.9.0.0/16"})),
    ),
)
WANT = WantedTunnel(
    9,
    OWN,
    51820,
    (
        WantedPeer(A, endpoint=HERE, allowed_ips=frozenset({"10.0.0.0/8"})),
        WantedPeer(B, allowed_ips=frozenset({"10.9.0.0/16"})),
    ),
)


def first_peer(**changed: object) -> WantedTunnel:
    return structs.replace(WANT, peers=(structs.replace(WANT.peers[0], **changed), WANT.peers[1]))


def test_nothing_differs() -> None:
    assert changes(HAVE, WANT, {}, NOW).empty
    assert changes(HAVE, structs.replace(WANT, listen_port=None), {}, NOW).empty


def test_only_the_peer_that_differs_is_touched() -> None:
    assert changes(HAVE, first_peer(keepalive_s=25), {}, NOW).peers == (PeerChange(A, keepalive_s=25),)
    gone = structs.replace(WANT, peers=WANT.peers[1:])
    assert changes(HAVE, gone, {}, NOW).peers == (PeerChange(A, remove=True),)
    new = structs.replace(WANT, peers=(*WANT.peers, WantedPeer(C, endpoint=THERE)))
    assert changes(HAVE, new, {}, NOW).peers == (
        PeerChange(C, preshared_key=KeyText(NO_KEY), endpoint=THERE, allowed_ips=frozenset(), keepalive_s=0),
    )


def test_a_preshared_key_taken_out_is_cleared() -> None:
    keyed = structs.replace(HAVE, peers=(structs.replace(HAVE.peers[0], preshared_key=KeyText(C)), HAVE.peers[1]))
    assert changes(keyed, WANT, {}, NOW).peers == (PeerChange(A, preshared_key=KeyText(NO_KEY)),)


def test_a_peer_that_moved_is_followed_while_it_talks() -> None:
    wanted = first_peer(endpoint=THERE)
    assert changes(HAVE, wanted, {A: THERE}, NOW).empty  # we named THERE, and it was heard from HERE since
    assert changes(HAVE, wanted, {}, NOW).empty  # a restarted machined does not know what it named
    assert changes(HAVE, wanted, {A: HERE}, NOW).peers == (PeerChange(A, endpoint=THERE),)  # the document changed
    assert changes(HAVE, wanted, {A: THERE}, NOW + 300).peers == (PeerChange(A, endpoint=THERE),)  # silence


def test_keys_are_compared_as_the_kernel_shows_them() -> None:
    assert base64.b64decode(OWN)[0] == 0xF8 and base64.b64decode(OWN)[31] == 0x7F
    assert clamped(OWN) == OWN


def test_no_representation_shows_a_key() -> None:
    secret = base64.b64encode(os.urandom(32)).decode()
    texts = [
        repr(WantedTunnel(1, clamped(secret), None, (WantedPeer(A, KeyText(secret)),))),
        repr(Tunnel(1, KeyText(secret), A, 0, (Peer(A, KeyText(secret)),))),
        repr(TunnelChange(1, private_key=KeyText(secret), peers=(PeerChange(A, preshared_key=KeyText(secret)),))),
    ]
    assert not any(secret[:40] in text or clamped(secret)[:40] in text for text in texts)


def test_messages_go_there_and_back() -> None:
    peers = tuple(
        PeerChange(
            base64.b64encode(n.to_bytes(32)).decode(),
            preshared_key=KeyText(C),
            endpoint=THERE if n % 2 else HERE,
            allowed_ips=frozenset({"10.0.0.0/8", "2001:db8::/32"}),
            keepalive_s=25,
        )
        for n in range(1, 71)
    )
    messages = list(encode_change(TunnelChange(9, private_key=OWN, listen_port=51820, peers=peers)))
    assert len(messages) == 3 and all(len(message) < 32_000 for message in messages)
    tunnel = decode_tunnel(9, messages)
    assert (tunnel.private_key, tunnel.listen_port, len(tunnel.peers)) == (OWN, 51820, 70)
    assert tunnel.peers[0] == Peer(
        peers[0].public_key, KeyText(C), THERE, frozenset({"10.0.0.0/8", "2001:db8::/32"}), keepalive_s=25
    )
    assert decode_tunnel(9, messages + messages) == tunnel  # a peer in pieces


def test_the_nodes_own_key_is_made_once_and_for_root_alone(tmp_path: Path) -> None:
    async def play() -> None:
        tunnels = Tunnels(tmp_path / "wireguard", lambda: None)
        made = tunnels._own_key(Link(name="wg0"))
        assert made == clamped(made) and tunnels._own_key(Link(name="wg0")) == made
        assert tunnels._own_key(Link(name="wg1")) != made
        path = tmp_path / "wireguard/wg0.key"
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        path.write_text("half")
        assert tunnels._own_key(Link(name="wg0")) != made

    asyncio.run(play())


def test_names_of_endpoints_are_resolved_beside_everything_else() -> None:
    async def play() -> None:
        changed = asyncio.Event()
        names = Names(changed.set)
        assert names.find("192.0.2.1:51820") == ("192.0.2.1", 51820)
        assert names.find("[2001:db8::1]:51820") == ("2001:db8::1", 51820)
        assert names.find("localhost:51820") is None
        names.ask("localhost:51820", again=False)
        async with asyncio.timeout(30):
            await changed.wait()
        found = names.find("localhost:51820")
        assert found is not None and found[0] in ("127.0.0.1", "::1")
        names.ask("localhost:51820", again=True)  # asked a moment ago: not again yet
        assert not names.busy
        names.close()

    asyncio.run(play())
