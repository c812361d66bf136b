"""The states of a DHCPv4 client (RFC 2131, section 4.4) without sockets or clocks: events in, actions out.

The caller feeds replies and the passing of :attr:`Machine.deadline`, and carries the actions out. Times are seconds of any clock that
nobody sets.
"""

from __future__ import annotations

import enum
import ipaddress
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from machined.network.dhcp.lease import Lease, Lease6
from machined.network.dhcp.message import (
    ASKED_FOR,
    Kind,
    MalformedError,
    Message,
    Option,
    classless_routes,
)

IPv4Address = ipaddress.IPv4Address

FIRST_WAIT_S = 1.0  # RFC 2131 suggests four seconds; a boot waits for this, and ten nodes do not flood a server
LONGEST_WAIT_S = 64.0
REQUEST_TRIES = 4  # for one offer, before the search begins again
SHORTEST_RETRY_S = 60.0  # RFC 2131, 4.4.5: between requests to extend
SHORTEST_LEASE_S = 30.0  # what a server grants below this would keep the client asking all the time
LONGEST_LEASE_S = (
    10 * 365 * 86400.0
)  # "for ever" (0xffffffff) included: it spares everything behind this a special case
MAXIMUM_MESSAGE_BYTES = 1500


class State(enum.Enum):
    """RFC 2131, figure 5; INIT-REBOOT is not used."""

    SELECTING = "looking for a DHCP server"
    REQUESTING = "asking for the offered address"
    BOUND = "bound"
    RENEWING = "renewing the lease"
    REBINDING = "looking for any server that renews the lease"


class Send(Struct, frozen=True):
    """Send a message: to *server* when given (the link has an address), else to everybody."""

    message: Message
    server: IPv4Address | None = None


class Bound(Struct, frozen=True):
    """A lease was granted or extended."""

    lease: Lease | Lease6


class Lost(Struct, frozen=True):
    """The address must no longer be used."""

    reason: str


Action = Send | Bound | Lost


def _transaction() -> int:
    return random.getrandbits(32)


@dataclass
class Machine:
    """One client on one link."""

    mac: bytes
    hostname: str = ""
    new_transaction: Callable[[], int] = _transaction
    jitter: Callable[[], float] = field(default=lambda: random.uniform(-0.1, 0.1))

    state: State = field(default=State.SELECTING, init=False)
    lease: Lease | None = field(default=None, init=False)
    deadline: float = field(default=0.0, init=False)
    _transaction: int = field(default=0, init=False)
    _began: float = field(default=0.0, init=False)
    _tries: int = field(default=0, init=False)
    _offer: Message | None = field(default=None, init=False)

    def start(self, now: float) -> list[Action]:
        """Begin the search for a server."""
        self.state = State.SELECTING
        self._transaction = self.new_transaction()
        self._began = now
        self._tries = 0
        return [self._discover(now)]

    def resume(self, lease: Lease, now: float) -> list[Action]:
        """Go on with a lease that an earlier run was granted."""
        if lease.expires_at <= now:
            return self.start(now)
        self.lease = lease
        self.state = State.BOUND
        self.deadline = lease.renew_at
        return [Bound(lease)]

    def link_came_back(self, now: float) -> list[Action]:
        """The carrier was away: the link may lead elsewhere now, so any server is asked whether the address still holds."""
        if self.lease is None:
            return self.start(now)
        return self._extend(State.REBINDING, now)

    def on_deadline(self, now: float) -> list[Action]:
        """:attr:`deadline` has passed."""
        match self.state:
            case State.SELECTING:
                return [self._discover(now)]
            case State.REQUESTING:
                return self.start(now) if self._tries >= REQUEST_TRIES else [self._request(now)]
        lease = self.lease
        if lease is None or now >= lease.expires_at:
            self.lease = None
            return [Lost("the lease ran out and no server extended it"), *self.start(now)]
        return self._extend(State.REBINDING if now >= lease.rebind_at else State.RENEWING, now)

    def on_message(self, message: Message, now: float) -> list[Action]:
        """A reply arrived. One that is not for us or not for now is ignored."""
        if message.transaction != self._transaction or message.mac != self.mac:
            return []
        if message.kind is Kind.OFFER and self.state is State.SELECTING:
            return self._take_offer(message, now)
        if self.state in (State.SELECTING, State.BOUND):
            return []
        if self.state is State.REQUESTING and message.address(Option.SERVER) != self._offered_by():
            return []
        if message.kind is Kind.ACK:
            return self._bind(message, now)
        if message.kind is Kind.NAK:
            had, self.lease = self.lease, None
            lost: list[Action] = [Lost(message.text(Option.MESSAGE) or "the server refused the address")] if had else []
            return [*lost, *self.start(now)]
        return []

    # --- what each state sends

    def _message(self, kind: Kind, now: float, client: IPv4Address | None = None, **options: bytes) -> Message:
        values = {int(Option[name]): value for name, value in options.items()}
        values[Option.CLIENT_ID] = b"\x01" + self.mac  # hardware type Ethernet
        values[Option.MAXIMUM_SIZE] = MAXIMUM_MESSAGE_BYTES.to_bytes(2)
        values[Option.PARAMETERS] = ASKED_FOR
        if self.hostname:
            values[Option.HOSTNAME] = self.hostname.encode("ascii", "replace")
        seconds = int(now - self._began)
        return Message(kind, self._transaction, self.mac, client or IPv4Address(0), options=values, seconds=seconds)

    def _wait(self, now: float) -> None:
        self.deadline = now + min(FIRST_WAIT_S * 2**self._tries, LONGEST_WAIT_S) * (1 + self.jitter())
        self._tries += 1

    def _discover(self, now: float) -> Send:
        self._wait(now)
        return Send(self._message(Kind.DISCOVER, now))

    def _take_offer(self, offer: Message, now: float) -> list[Action]:
        if offer.address(Option.SERVER) is None or int(offer.offered) == 0:
            return []
        self._offer = offer
        self.state = State.REQUESTING
        self._tries = 0
        return [self._request(now)]

    def _offered_by(self) -> IPv4Address | None:
        return self._offer.address(Option.SERVER) if self._offer else None

    def _request(self, now: float) -> Send:
        self._wait(now)
        offer = self._offer
        if offer is None:
            return self._discover(now)
        return Send(
            self._message(
                Kind.REQUEST, now, REQUESTED_ADDRESS=offer.offered.packed, SERVER=offer.options[Option.SERVER]
            )
        )

    def _extend(self, state: State, now: float) -> list[Action]:
        """Ask for more time: the server that granted the lease while RENEWING, everybody while REBINDING."""
        lease = self.lease
        if lease is None:
            return self.start(now)
        if state is not self.state:
            self.state = state
            self._transaction = self.new_transaction()
            self._began = now
        limit = lease.rebind_at if state is State.RENEWING else lease.expires_at
        # Half of what remains, at least a minute, and never past the limit itself (RFC 2131, 4.4.5).
        self.deadline = min(now + max((limit - now) / 2, SHORTEST_RETRY_S), limit)
        message = self._message(Kind.REQUEST, now, client=lease.interface.ip)
        return [Send(message, lease.server if state is State.RENEWING else None)]

    def _bind(self, ack: Message, now: float) -> list[Action]:
        try:
            lease = lease_from(ack, now)
        except MalformedError:
            return []  # the next try may bring a better one
        had, self.lease = self.lease, lease
        self.state = State.BOUND
        self.deadline = lease.renew_at
        moved = had is not None and had.interface != lease.interface
        return [*([Lost("the server gave another address")] if moved else []), Bound(lease)]


def lease_from(ack: Message, now: float) -> Lease:
    """The lease that an ACK grants.

    :raises MalformedError: it names no usable address, server or time.
    """
    server = ack.address(Option.SERVER)
    granted = ack.number(Option.LEASE_TIME)
    if server is None or granted is None or int(ack.offered) == 0:
        raise MalformedError("an ACK without server, time or address")
    duration = min(max(float(granted), SHORTEST_LEASE_S), LONGEST_LEASE_S)
    mask = ack.address(Option.MASK)
    try:
        interface = ipaddress.IPv4Interface(f"{ack.offered}/{mask or 32}")
    except ValueError as error:
        raise MalformedError(str(error)) from error
    rebind = min(float(ack.number(Option.T2) or duration * 7 / 8), duration)
    renew = min(float(ack.number(Option.T1) or duration / 2), rebind)
    routes = classless_routes(ack.options.get(Option.CLASSLESS_ROUTES, b""))
    if not routes:  # RFC 3442: with classless routes the router option must be ignored
        routes = tuple((ipaddress.IPv4Network("0.0.0.0/0"), router) for router in ack.addresses(Option.ROUTERS)[:1])
    domain = ack.text(Option.DOMAIN)
    return Lease(
        interface=interface,
        server=server,
        renew_at=now + renew,
        rebind_at=now + rebind,
        expires_at=now + duration,
        routes=routes,
        dns=ack.addresses(Option.DNS),
        search=(domain,) if domain else (),
        time_servers=ack.addresses(Option.NTP),
    )
