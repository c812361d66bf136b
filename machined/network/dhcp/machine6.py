"""The states of a DHCPv6 client for one address (RFC 8415, section 18.2) without sockets or clocks: events in, actions out.

The shape is that of :mod:`machined.network.dhcp.machine`. Routes and prefix lengths are not DHCPv6's: routers advertise them.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from machined.network.dhcp.lease import Lease6
from machined.network.dhcp.machine import LONGEST_LEASE_S, SHORTEST_LEASE_S, Bound, Lost, State
from machined.network.dhcp.message6 import (
    ASKED_FOR,
    SUCCESS,
    Granted,
    Kind6,
    Message6,
    Option6,
    association_option,
)

# RFC 8415, section 7.6: the first wait and the longest, for each message. A Rebind waits like a Renew.
_WAITS_S = {
    Kind6.SOLICIT: (1.0, 3600.0),
    Kind6.REQUEST: (1.0, 30.0),
    Kind6.RENEW: (10.0, 600.0),
    Kind6.REBIND: (10.0, 600.0),
}
REQUEST_TRIES = 10  # REQ_MAX_RC
_BEST_PREFERENCE = 255  # a server that says so is taken without waiting for others
_INFINITY = 0xFFFFFFFF


class Send6(Struct, frozen=True):
    """Send a message to all servers of the link."""

    message: Message6


Action6 = Send6 | Bound | Lost


@dataclass
class Machine6:
    """One client on one link.

    :param duid: who the node is.
    :param association: which of its links it is (IAID); stays the same for a link.
    """

    duid: bytes
    association: int
    new_transaction: Callable[[], int] = lambda: random.getrandbits(24)
    jitter: Callable[[], float] = field(default=lambda: random.uniform(-0.1, 0.1))

    state: State = field(default=State.SELECTING, init=False)
    lease: Lease6 | None = field(default=None, init=False)
    deadline: float = field(default=0.0, init=False)
    _kind: Kind6 = field(default=Kind6.SOLICIT, init=False)
    _transaction: int = field(default=0, init=False)
    _began: float = field(default=0.0, init=False)
    _wait: float = field(default=0.0, init=False)
    _tries: int = field(default=0, init=False)
    _offer: Message6 | None = field(default=None, init=False)

    def start(self, now: float) -> list[Action6]:
        """Begin the search for a server."""
        self.state = State.SELECTING
        self._offer = None
        return self._begin(Kind6.SOLICIT, now)

    def resume(self, lease: Lease6, now: float) -> list[Action6]:
        """Go on with a lease that an earlier run was granted."""
        if lease.expires_at <= now:
            return self.start(now)
        self.lease = lease
        self.state = State.BOUND
        self.deadline = lease.renew_at
        return [Bound(lease)]

    def link_came_back(self, now: float) -> list[Action6]:
        """The carrier was away: any server of the link is asked whether the address still fits."""
        if self.lease is None:
            return self.start(now)
        self.state = State.REBINDING
        return self._begin(Kind6.REBIND, now)

    def release(self, now: float) -> list[Action6]:
        """Give the address back. Nobody waits for the answer: a server that does not hear it lets the lease run out."""
        return self._return(Kind6.RELEASE, now)

    def decline(self, now: float) -> list[Action6]:
        """Another machine uses the address: tell the server, and ask for another one (section 18.2.8)."""
        said = self._return(Kind6.DECLINE, now)
        return [*said, Lost("another machine uses the address"), *self.start(now)] if said else []

    def _return(self, kind: Kind6, now: float) -> list[Action6]:
        lease, self.lease = self.lease, None
        if lease is None:
            return []
        self._transaction = self.new_transaction()
        self._began = now
        return [Send6(self._message(kind, now, lease.server, lease.interface.ip))]

    def on_deadline(self, now: float) -> list[Action6]:
        """:attr:`deadline` has passed."""
        lease = self.lease
        if lease is not None and now >= lease.expires_at:
            self.lease = None
            return [Lost("the lease ran out and no server extended it"), *self.start(now)]
        match self.state:
            case State.SELECTING if self._offer is not None:
                return self._take(self._offer, now)
            case State.REQUESTING if self._tries >= REQUEST_TRIES:
                return self.start(now)
            case State.SELECTING | State.REQUESTING:
                return [self._send(now)]
        if lease is None:
            return self.start(now)
        wanted = State.REBINDING if now >= lease.rebind_at else State.RENEWING
        if wanted is not self.state:
            self.state = wanted
            return self._begin(Kind6.REBIND if wanted is State.REBINDING else Kind6.RENEW, now)
        return [self._send(now)]

    def on_message(self, message: Message6, now: float) -> list[Action6]:
        """A message arrived. One that is not for us or not for now is ignored (section 16)."""
        ours = message.option(Option6.CLIENT_ID) == self.duid and message.transaction == self._transaction
        if not ours or message.option(Option6.SERVER_ID) is None:
            return []
        granted = message.granted(self.association)
        if message.kind is Kind6.ADVERTISE and self.state is State.SELECTING:
            return self._consider(message, granted, now)
        if message.kind is not Kind6.REPLY or self.state in (State.SELECTING, State.BOUND) or message.status != SUCCESS:
            return []
        if granted is not None and granted.status == SUCCESS and granted.address is not None and granted.valid_s:
            return self._bind(message, granted, now)
        if self.state is State.REQUESTING:
            return self.start(now)  # it has changed its mind
        if granted is not None and granted.status != SUCCESS:  # no binding: a Request makes one (section 18.2.10.1)
            return self._take(message, now)
        if granted is not None and granted.address is not None:  # lifetimes of zero: the address does not fit this link
            self.lease = None
            return [Lost("the server took the address back"), *self.start(now)]
        return []

    # --- what each state sends

    def _begin(self, kind: Kind6, now: float) -> list[Action6]:
        self._kind = kind
        self._transaction = self.new_transaction()
        self._began, self._wait, self._tries = now, 0.0, 0
        return [self._send(now)]

    def _send(self, now: float) -> Send6:
        first, longest = _WAITS_S[self._kind]
        # Section 15: each wait is twice the one before, a little more or less, so that many nodes do not ask in step.
        self._wait = min(2 * self._wait if self._wait else first, longest) * (1 + self.jitter())
        self._tries += 1
        self.deadline = now + self._wait
        lease = self.lease
        if lease is not None:
            limit = lease.rebind_at if self.state is State.RENEWING else lease.expires_at
            self.deadline = max(min(self.deadline, limit), now)
        server = self._offer.option(Option6.SERVER_ID) if self._kind is Kind6.REQUEST and self._offer else None
        if self._kind is Kind6.RENEW and lease is not None:
            server = lease.server
        return Send6(self._message(self._kind, now, server, lease.interface.ip if lease else None))

    def _message(
        self, kind: Kind6, now: float, server: bytes | None, address: ipaddress.IPv6Address | None
    ) -> Message6:
        elapsed = min(int((now - self._began) * 100), 0xFFFF)
        options: list[tuple[int, bytes]] = [(Option6.CLIENT_ID, self.duid)]
        if server is not None:
            options.append((Option6.SERVER_ID, server))
        options.append((Option6.ELAPSED, elapsed.to_bytes(2)))
        options.append((Option6.IA_NA, association_option(self.association, address)))
        if kind not in (Kind6.RELEASE, Kind6.DECLINE):
            options.append((Option6.REQUESTED, ASKED_FOR))
        return Message6(kind, self._transaction, tuple(options))

    def _consider(self, offer: Message6, granted: Granted | None, now: float) -> list[Action6]:
        """Section 18.2.9: the best offer of the first wait is taken; later the first that comes."""
        if offer.status != SUCCESS or granted is None or granted.status != SUCCESS or granted.address is None:
            return []
        if self._offer is None or _preference(offer) > _preference(self._offer):
            self._offer = offer
        if _preference(offer) == _BEST_PREFERENCE or self._tries > 1:
            return self._take(self._offer, now)
        return []

    def _take(self, offer: Message6, now: float) -> list[Action6]:
        self._offer = offer
        self.state = State.REQUESTING
        return self._begin(Kind6.REQUEST, now)

    def _bind(self, reply: Message6, granted: Granted, now: float) -> list[Action6]:
        lease = lease_from(reply, granted, now)
        had, self.lease = self.lease, lease
        self.state = State.BOUND
        self.deadline = lease.renew_at
        moved = had is not None and had.interface != lease.interface
        return [*([Lost("the server gave another address")] if moved else []), Bound(lease)]


def _preference(offer: Message6) -> int:
    value = offer.option(Option6.PREFERENCE)
    return value[0] if value else 0


def lease_from(reply: Message6, granted: Granted, now: float) -> Lease6:
    """The lease that a REPLY grants. Times that it leaves open are chosen as section 21.4 recommends."""

    def seconds(value: int) -> float:
        return LONGEST_LEASE_S if value == _INFINITY else min(float(value), LONGEST_LEASE_S)

    valid = max(seconds(granted.valid_s), SHORTEST_LEASE_S)
    preferred = min(seconds(granted.preferred_s), valid)
    rebind = min(seconds(granted.rebind_s) or max(preferred, SHORTEST_LEASE_S) * 0.8, valid)
    renew = min(seconds(granted.renew_s) or max(preferred, SHORTEST_LEASE_S) * 0.5, rebind)
    return Lease6(
        interface=ipaddress.IPv6Interface(f"{granted.address}/128"),
        server=reply.option(Option6.SERVER_ID) or b"",
        renew_at=now + renew,
        rebind_at=now + rebind,
        preferred_until=now + preferred,
        expires_at=now + valid,
        dns=reply.addresses(Option6.DNS),
        search=reply.domains(),
    )
