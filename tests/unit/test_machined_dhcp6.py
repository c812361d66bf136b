"""The DHCPv6 client: messages and the state machine, event by event (RFC 8415)."""

from __future__ import annotations

import ipaddress
import random
import struct
from pathlib import Path

import pytest

from machined.network.dhcp import lease as leases
from machined.network.dhcp.machine import Bound, Lost, State
from machined.network.dhcp.machine6 import REQUEST_TRIES, Machine6, Send6
from machined.network.dhcp.message import MalformedError
from machined.network.dhcp.message6 import Kind6, Message6, Option6, association_option, decode6, duid, encode6

CLIENT, SERVER, OTHER = duid("ab" * 16), b"\0\3\0\1srv", b"\0\3\0\1two"
ADDRESS = ipaddress.IPv6Address("2001:db8::77")
ASSOCIATION = 7


def answer(
    kind: Kind6,
    transaction: int,
    *,
    server: bytes = SERVER,
    client: bytes = CLIENT,
    preference: int | None = None,
    valid: int = 200,
    preferred: int = 100,
    t1: int = 0,
    t2: int = 0,
    status: int = 0,
) -> Message6:
    inner = struct.pack("!HH16sII", Option6.IA_ADDRESS, 24, ADDRESS.packed, preferred, valid)
    if status:
        inner = struct.pack("!HHH", Option6.STATUS, 2, status)
    options = [
        (int(Option6.CLIENT_ID), client),
        (int(Option6.SERVER_ID), server),
        (int(Option6.IA_NA), struct.pack("!III", ASSOCIATION, t1, t2) + inner),
        (int(Option6.DNS), ipaddress.IPv6Address("2001:db8::53").packed),
        (int(Option6.DOMAINS), b"\x07example\x03org\x00"),
    ]
    if preference is not None:
        options.append((int(Option6.PREFERENCE), bytes((preference,))))
    return decode6(encode6(Message6(kind, transaction, tuple(options))))


def machine() -> Machine6:
    numbers = iter(range(100, 400))
    return Machine6(CLIENT, ASSOCIATION, new_transaction=lambda: next(numbers), jitter=lambda: 0.0)


def sent(actions: list[object]) -> Message6:
    (action,) = actions
    assert isinstance(action, Send6)
    return action.message


def bound(*, t1: int = 0, t2: int = 0) -> Machine6:
    client = machine()
    client.start(0)
    client.on_message(answer(Kind6.ADVERTISE, 100, preference=255), 0.1)
    assert isinstance(client.on_message(answer(Kind6.REPLY, 101, t1=t1, t2=t2), 0.2)[0], Bound)
    return client


def test_solicit_advertise_request_reply() -> None:
    client = machine()
    solicit = sent([*client.start(10.0)])
    assert solicit.kind is Kind6.SOLICIT and solicit.option(Option6.CLIENT_ID) == CLIENT
    assert solicit.option(Option6.SERVER_ID) is None
    assert client.on_message(answer(Kind6.ADVERTISE, 100), 10.2) == []  # others may offer more
    request = sent([*client.on_deadline(11.0)])
    assert (request.kind, request.option(Option6.SERVER_ID)) == (Kind6.REQUEST, SERVER)
    (done,) = client.on_message(answer(Kind6.REPLY, 101), 11.5)
    assert isinstance(done, Bound)
    lease = client.lease
    assert lease is not None and str(lease.interface) == "2001:db8::77/128"
    assert (lease.renew_at, lease.rebind_at, lease.preferred_until, lease.expires_at) == (61.5, 91.5, 111.5, 211.5)
    assert (lease.dns, lease.search) == ((ipaddress.IPv6Address("2001:db8::53"),), ("example.org",))


def test_the_best_offer_of_the_first_wait_is_taken() -> None:
    client = machine()
    client.start(0)
    client.on_message(answer(Kind6.ADVERTISE, 100, preference=1), 0.1)
    client.on_message(answer(Kind6.ADVERTISE, 100, server=OTHER, preference=9), 0.2)
    client.on_message(answer(Kind6.ADVERTISE, 100, preference=3), 0.3)
    assert sent([*client.on_deadline(1.0)]).option(Option6.SERVER_ID) == OTHER


def test_waits_grow_and_later_offers_are_taken_at_once() -> None:
    client = machine()
    client.start(0)
    waits = [client.deadline]
    for _ in range(3):
        before = client.deadline
        assert sent([*client.on_deadline(before)]).kind is Kind6.SOLICIT
        waits.append(client.deadline - before)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert sent([*client.on_message(answer(Kind6.ADVERTISE, 100), 20)]).kind is Kind6.REQUEST


def test_a_server_that_does_not_answer_a_request_is_given_up() -> None:
    client = machine()
    client.start(0)
    client.on_message(answer(Kind6.ADVERTISE, 100, preference=255), 0)
    for _ in range(REQUEST_TRIES - 1):
        assert sent([*client.on_deadline(client.deadline)]).kind is Kind6.REQUEST
    assert sent([*client.on_deadline(client.deadline)]).kind is Kind6.SOLICIT


def test_renew_rebind_and_loss() -> None:
    client = bound()
    assert client.state is State.BOUND and client.deadline == pytest.approx(50.2)
    renew = sent([*client.on_deadline(50.2)])
    assert (renew.kind, renew.option(Option6.SERVER_ID)) == (Kind6.RENEW, SERVER)
    assert renew.option(Option6.IA_NA) == association_option(ASSOCIATION, ADDRESS)
    kinds = {Kind6.RENEW}
    while Kind6.REBIND not in kinds:
        rebind = sent([*client.on_deadline(client.deadline)])
        kinds.add(rebind.kind)
    assert kinds == {Kind6.RENEW, Kind6.REBIND}
    assert (rebind.kind, rebind.option(Option6.SERVER_ID)) == (Kind6.REBIND, None)
    actions: list[object] = []
    while client.lease is not None:
        actions = [*client.on_deadline(client.deadline)]
    assert isinstance(actions[0], Lost) and isinstance(actions[1], Send6)
    assert actions[1].message.kind is Kind6.SOLICIT


def test_a_renewed_lease_goes_on() -> None:
    client = bound()
    renew = sent([*client.on_deadline(50.2)])
    assert client.on_message(answer(Kind6.REPLY, renew.transaction), 51.0) == [Bound(client.lease)]  # type: ignore[arg-type]
    assert client.state is State.BOUND and client.lease is not None and client.lease.expires_at == 251.0


def test_a_server_without_a_record_of_the_lease_is_asked_for_it() -> None:
    client = bound()
    renew = sent([*client.on_deadline(50.2)])
    request = sent([*client.on_message(answer(Kind6.REPLY, renew.transaction, status=3), 51.0)])
    assert request.kind is Kind6.REQUEST and client.lease is not None


def test_an_address_that_does_not_fit_the_link_is_lost() -> None:
    client = bound()
    rebind = sent([*client.link_came_back(20.0)])
    assert rebind.kind is Kind6.REBIND
    actions = client.on_message(answer(Kind6.REPLY, rebind.transaction, valid=0, preferred=0), 20.5)
    assert isinstance(actions[0], Lost) and client.lease is None


def test_release_names_address_and_server() -> None:
    client = bound()
    release = sent([*client.release(30.0)])
    assert (release.kind, release.option(Option6.SERVER_ID)) == (Kind6.RELEASE, SERVER)
    assert release.option(Option6.IA_NA) == association_option(ASSOCIATION, ADDRESS)
    assert client.release(31.0) == []


def test_an_address_that_another_machine_uses_is_declined() -> None:
    client = bound()
    declined, lost, solicit = client.decline(30.0)
    assert isinstance(declined, Send6) and declined.message.kind is Kind6.DECLINE
    assert declined.message.option(Option6.IA_NA) == association_option(ASSOCIATION, ADDRESS)
    assert isinstance(lost, Lost) and client.lease is None
    assert isinstance(solicit, Send6) and solicit.message.option(Option6.IA_NA) == association_option(ASSOCIATION)


@pytest.mark.parametrize(
    "strange",
    [
        answer(Kind6.ADVERTISE, 99),
        answer(Kind6.ADVERTISE, 100, client=b"\0\4other"),
        answer(Kind6.ADVERTISE, 100, status=2),
        answer(Kind6.REPLY, 100),
        Message6(Kind6.ADVERTISE, 100, ((int(Option6.CLIENT_ID), CLIENT),)),
    ],
)
def test_what_is_not_for_us_is_ignored(strange: Message6) -> None:
    client = machine()
    client.start(0)
    assert client.on_message(strange, 0.5) == []
    assert sent([*client.on_deadline(1.0)]).kind is Kind6.SOLICIT


def test_leases_are_kept_and_nonsense_is_none(tmp_path: Path) -> None:
    client = bound(t1=30, t2=60)
    path = tmp_path / "dhcp/eth0.dhcp6.json"
    assert client.lease is not None
    leases.save6(client.lease, path)
    assert leases.load6(path) == client.lease
    again = machine()
    assert again.resume(client.lease, 5.0) == [Bound(client.lease)] and again.deadline == pytest.approx(30.2)
    path.write_text("{}")
    assert leases.load6(path) is None


def test_any_bytes_are_survived() -> None:
    noise = random.Random(8415)
    client = machine()
    client.start(0)
    whole = encode6(answer(Kind6.ADVERTISE, 100))
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(noise.randrange(1, 5)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        try:
            client.on_message(decode6(bytes(data[: noise.randrange(len(data) + 1)])), 0.5)
        except MalformedError:
            continue
