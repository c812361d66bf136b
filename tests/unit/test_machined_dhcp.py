"""The DHCP client: messages, the state machine, and a real server on a veth pair where root is at hand."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import pytest

from machined.network.dhcp import lease as leases
from machined.network.dhcp.lease import Lease
from machined.network.dhcp.machine import Bound, Lost, Machine, Send, State, lease_from
from machined.network.dhcp.message import Kind, MalformedError, Message, Option, classless_routes, decode, encode
from machined.network.dhcp.sockets import unwrap, wrap

MAC = bytes.fromhex("525400000001")
SERVER = ipaddress.IPv4Address("10.0.0.1")
ADDRESS = ipaddress.IPv4Address("10.0.0.5")


def reply(
    kind: Kind, transaction: int, *, server: ipaddress.IPv4Address = SERVER, mac: bytes = MAC, seconds: int = 3600
) -> Message:
    options = {
        int(Option.SERVER): server.packed,
        int(Option.LEASE_TIME): seconds.to_bytes(4),
        int(Option.MASK): ipaddress.IPv4Address("255.255.255.0").packed,
        int(Option.ROUTERS): SERVER.packed,
        int(Option.DNS): SERVER.packed + ADDRESS.packed,
        int(Option.DOMAIN): b"example.org\n",
    }
    return Message(kind, transaction, mac, offered=ADDRESS, options=options)


def machine() -> Machine:
    numbers = iter(range(100, 200))
    return Machine(MAC, "node", new_transaction=lambda: next(numbers), jitter=lambda: 0.0)


def bound() -> Machine:
    client = machine()
    client.start(0)
    client.on_message(reply(Kind.OFFER, 100), 0.1)
    assert isinstance(client.on_message(reply(Kind.ACK, 100), 0.2)[0], Bound)
    return client


def sent(actions: list[object]) -> Send:
    (action,) = actions
    assert isinstance(action, Send)
    return action


class TestStates:
    def test_discover_offer_request_ack(self) -> None:
        client = machine()
        discover = sent([*client.start(10)])
        assert (discover.message.kind, discover.server) == (Kind.DISCOVER, None)
        assert discover.message.options[Option.HOSTNAME] == b"node"
        request = sent([*client.on_message(reply(Kind.OFFER, 100), 11)])
        assert request.message.kind is Kind.REQUEST
        assert request.message.options[Option.REQUESTED_ADDRESS] == ADDRESS.packed
        assert request.message.options[Option.SERVER] == SERVER.packed
        (granted,) = client.on_message(reply(Kind.ACK, 100), 12)
        assert isinstance(granted, Bound)
        assert str(granted.lease.interface) == "10.0.0.5/24"
        assert (granted.lease.renew_at, granted.lease.rebind_at, granted.lease.expires_at) == (1812, 3162, 3612)
        assert granted.lease.search == ("example.org",)
        assert client.deadline == 1812

    def test_silence_is_asked_again_ever_more_rarely(self) -> None:
        client = machine()
        client.start(0)
        waits, now = [], 0.0
        for _ in range(9):
            waits.append(client.deadline - now)
            now = client.deadline
            assert sent([*client.on_deadline(now)]).message.kind is Kind.DISCOVER
        assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]

    def test_an_offer_that_is_never_confirmed_starts_anew(self) -> None:
        client = machine()
        client.start(0)
        client.on_message(reply(Kind.OFFER, 100), 0)
        kinds = [sent([*client.on_deadline(client.deadline)]).message.kind for _ in range(4)]
        assert kinds == [Kind.REQUEST, Kind.REQUEST, Kind.REQUEST, Kind.DISCOVER]

    def test_replies_for_others_are_ignored(self) -> None:
        client = machine()
        client.start(0)
        assert client.on_message(reply(Kind.OFFER, 99), 0) == []
        assert client.on_message(reply(Kind.OFFER, 100, mac=b"\1" * 6), 0) == []
        assert client.on_message(reply(Kind.ACK, 100), 0) == []
        client.on_message(reply(Kind.OFFER, 100), 0)
        assert client.on_message(reply(Kind.ACK, 100, server=ipaddress.IPv4Address("10.0.0.66")), 0) == []

    def test_renewal_goes_to_the_server_and_rebinding_to_everybody(self) -> None:
        client = bound()
        renewal = sent([*client.on_deadline(client.deadline)])
        assert client.state is State.RENEWING
        assert (renewal.server, renewal.message.client) == (SERVER, ADDRESS)
        assert Option.SERVER not in renewal.message.options  # RFC 2131, 4.3.2
        while client.state is State.RENEWING:
            last = sent([*client.on_deadline(client.deadline)])
        assert (client.state, last.server) == (State.REBINDING, None)
        (granted,) = client.on_message(reply(Kind.ACK, last.message.transaction), 3300)
        assert isinstance(granted, Bound)
        assert granted.lease.expires_at == 6900

    def test_a_lease_that_nobody_extends_ends(self) -> None:
        client = bound()
        actions = []
        for _ in range(50):
            actions = client.on_deadline(client.deadline)
            if isinstance(actions[0], Lost):
                break
        assert isinstance(actions[0], Lost)
        assert client.lease is None
        assert client.state is State.SELECTING

    def test_a_refusal_ends_the_lease_at_once(self) -> None:
        client = bound()
        renewal = sent([*client.on_deadline(client.deadline)])
        lost, discover = client.on_message(reply(Kind.NAK, renewal.message.transaction), 1900)
        assert isinstance(lost, Lost)
        assert sent([discover]).message.kind is Kind.DISCOVER

    def test_another_address_at_renewal_drops_the_old_one_first(self) -> None:
        client = bound()
        renewal = sent([*client.on_deadline(client.deadline)])
        other = reply(Kind.ACK, renewal.message.transaction)
        other = Message(
            other.kind, other.transaction, MAC, offered=ipaddress.IPv4Address("10.0.0.9"), options=other.options
        )
        assert [type(action) for action in client.on_message(other, 1900)] == [Lost, Bound]

    def test_a_carrier_that_returns_asks_any_server(self) -> None:
        client = bound()
        assert sent([*client.link_came_back(100)]).server is None
        assert client.state is State.REBINDING
        fresh = machine()
        assert sent([*fresh.link_came_back(0)]).message.kind is Kind.DISCOVER

    def test_a_restarted_daemon_goes_on_with_its_lease(self) -> None:
        kept = bound().lease
        assert kept is not None
        client = machine()
        assert client.resume(kept, 500) == [Bound(kept)]
        assert (client.state, client.deadline) == (State.BOUND, kept.renew_at)
        assert sent([*machine().resume(kept, 99999)]).message.kind is Kind.DISCOVER


class TestMessages:
    def test_a_request_reads_as_the_standard_has_it(self) -> None:
        data = encode(Message(Kind.DISCOVER, 0x01020304, MAC, options={Option.HOSTNAME: b"node"}))
        assert len(data) >= 300
        assert data[:8] == bytes((1, 1, 6, 0, 1, 2, 3, 4))
        assert data[28:34] == MAC
        assert data[236:240] == b"\x63\x82\x53\x63"
        assert data[240:243] == bytes((53, 1, 1))

    def test_a_reply_is_read(self) -> None:
        data = bytearray(encode(Message(Kind.ACK, 7, MAC, options={Option.DNS: SERVER.packed, Option.MESSAGE: b"hi"})))
        data[0] = 2
        data[16:20] = ADDRESS.packed
        message = decode(bytes(data))
        assert (message.kind, message.transaction, message.offered) == (Kind.ACK, 7, ADDRESS)
        assert message.addresses(Option.DNS) == (SERVER,)

    @pytest.mark.parametrize("cut", range(0, 300, 7))
    def test_cut_or_foreign_data_is_refused_and_nothing_else(self, cut: int) -> None:
        data = bytearray(encode(Message(Kind.OFFER, 7, MAC, options={Option.DNS: b"\1\2\3"})))
        data[0] = 2
        try:
            decode(bytes(data[:cut]))
        except MalformedError:
            return
        assert cut >= 243  # enough for a whole option 53

    def test_an_option_beyond_the_end_is_refused(self) -> None:
        data = bytearray(encode(Message(Kind.OFFER, 7, MAC)))[:243]
        data[0] = 2
        with pytest.raises(MalformedError):
            decode(bytes(data) + bytes((Option.DNS, 200, 1)))

    def test_long_options_come_in_pieces(self) -> None:
        data = bytearray(encode(Message(Kind.OFFER, 7, MAC)))[:243]
        data[0] = 2
        pieces = bytes((Option.DNS, 4)) + SERVER.packed + bytes((Option.DNS, 4)) + ADDRESS.packed + b"\xff"
        assert decode(bytes(data) + pieces).addresses(Option.DNS) == (SERVER, ADDRESS)

    def test_classless_routes(self) -> None:
        data = bytes((0, *SERVER.packed, 24, 192, 168, 7, 0, 0, 0, 0))
        assert classless_routes(data) == (
            (ipaddress.IPv4Network("0.0.0.0/0"), SERVER),
            (ipaddress.IPv4Network("192.168.7.0/24"), None),
        )
        with pytest.raises(MalformedError):
            classless_routes(bytes((33, 1, 2, 3, 4, 5, 6, 7, 8, 9)))
        with pytest.raises(MalformedError):
            classless_routes(data[:-1])

    def test_classless_routes_replace_the_router(self) -> None:
        ack = reply(Kind.ACK, 1)
        options = {**ack.options, Option.CLASSLESS_ROUTES: bytes((8, 10, *SERVER.packed))}
        lease = lease_from(Message(Kind.ACK, 1, MAC, offered=ADDRESS, options=options), 0)
        assert lease.routes == ((ipaddress.IPv4Network("10.0.0.0/8"), SERVER),)

    @pytest.mark.parametrize(("seconds", "expires"), [(5, 30.0), (0xFFFFFFFF, 10 * 365 * 86400.0)])
    def test_absurd_lease_times_are_bounded(self, seconds: int, expires: float) -> None:
        assert lease_from(reply(Kind.ACK, 1, seconds=seconds), 0).expires_at == expires

    def test_text_cannot_break_a_file(self) -> None:
        message = Message(Kind.ACK, 1, MAC, options={Option.DOMAIN: b"a.example\nnameserver 6.6.6.6\0"})
        assert "\n" not in message.text(Option.DOMAIN)

    def test_headers_around_a_message(self) -> None:
        packet = wrap(b"payload")
        assert unwrap(packet) == b"payload"
        total = sum(struct.unpack("!10H", packet[:20]))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # RFC 1071
        assert unwrap(b"") == b""


def test_leases_on_disk(tmp_path: Path) -> None:
    lease = bound().lease
    assert lease is not None
    path = tmp_path / "dhcp" / "eth0.json"
    assert leases.load(path) is None
    leases.save(lease, path)
    assert leases.load(path) == lease
    path.write_text('{"interface": "10.0.0.1"}')
    assert leases.load(path) is None
    assert isinstance(lease, Lease)
