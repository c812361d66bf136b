"""From what is to what should be: the operations, in an order that never cuts the node off half way. Pure.

Links are made and joined first, so that what lies on them finds them; those that go, go last (:mod:`machined.network.stackplan`). In
between, everything new is put in place before anything old goes, and routes go before the addresses they lean on. An interrupted
plan leaves the node with both the old and the new way to reach it, and the next run finishes. Only what machined itself made (its
protocol or group number is on it) is ever removed: an address that a virtual-IP program or a CNI plugin added stays. The one
exception is what the kernel made of router advertisements on a link that must not follow them.
"""

from __future__ import annotations

from collections.abc import Iterator

from machined.network import stackplan
from machined.network.model import (
    OURS,
    ROUTER_ADVERTISEMENT,
    RTPROT_RA,
    Desired,
    DesiredAddress,
    Observed,
    ObservedAddress,
    Operation,
    PutAddress,
    PutRoute,
    RemoveAddress,
    RemoveRoute,
    SetLink,
)
from machined.network.stack import Stack

_NONE = Stack()

LIFETIME_SLACK_S = 5.0  # the kernel counts lifetimes in whole seconds, and time passes between renewal and dump


def plan(observed: Observed, desired: Desired, made: Stack = _NONE) -> tuple[Operation, ...]:
    """The operations that lead from *observed* to *desired*; none when nothing differs.

    What is to be done on a link that these operations make is not among them: its index is not known yet. The next look has it.
    """
    return (
        *stackplan.make(observed, made),
        *_switch_on(observed, desired),
        *_put_addresses(observed, desired),
        *_put_routes(observed, desired),
        *_remove_routes(observed, desired),
        *_remove_addresses(observed, desired),
        *_switch_off(observed, desired),
        *stackplan.unmake(observed, made),
    )


def _switch_on(observed: Observed, desired: Desired) -> Iterator[Operation]:
    links = {link.index: link for link in observed.links}
    for want in desired.links:
        link = links.get(want.index)
        if link is None:
            continue
        mtu = want.mtu if want.mtu is not None and want.mtu != link.mtu else None
        up = True if want.up and not link.up else None
        if mtu is not None or up is not None:
            yield SetLink(link.index, link.name, up, mtu)


def _switch_off(observed: Observed, desired: Desired) -> Iterator[Operation]:
    links = {link.index: link for link in observed.links}
    for want in desired.links:
        link = links.get(want.index)
        if link is not None and link.up and not want.up:
            yield SetLink(link.index, link.name, up=False)


def _put_addresses(observed: Observed, desired: Desired) -> Iterator[Operation]:
    present = {(address.index, address.interface): address for address in observed.addresses}
    for want in desired.addresses:
        have = present.get((want.index, want.interface))
        if have is None or _lifetime_differs(have, want):
            yield PutAddress(want)


def _lifetime_differs(have: ObservedAddress, want: DesiredAddress) -> bool:
    if have.protocol not in OURS:
        return False  # somebody else's address that we want as well: it is there, and not ours to change
    if have.valid_until is None or want.valid_until is None:
        return have.valid_until is not want.valid_until
    return abs(have.valid_until - want.valid_until) > LIFETIME_SLACK_S


def _put_routes(observed: Observed, desired: Desired) -> Iterator[Operation]:
    present = {(route.index, route.destination, route.via, route.metric) for route in observed.routes}
    # On-link routes first: the kernel takes a gateway only once it can reach it.
    for want in sorted(desired.routes, key=lambda route: route.via is not None):
        if (want.index, want.destination, want.via, want.effective_metric) not in present:
            yield PutRoute(want)


def _remove_routes(observed: Observed, desired: Desired) -> Iterator[Operation]:
    wanted = {(route.index, route.destination, route.via, route.effective_metric) for route in desired.routes}
    ours = [
        route
        for route in observed.routes
        if route.protocol in OURS or (route.protocol == RTPROT_RA and route.index in desired.deaf)
    ]
    for route in sorted(ours, key=lambda route: route.via is None):
        if (route.index, route.destination, route.via, route.metric) not in wanted:
            yield RemoveRoute(route)


def _remove_addresses(observed: Observed, desired: Desired) -> Iterator[Operation]:
    wanted = {(address.index, address.interface) for address in desired.addresses}
    for address in observed.addresses:
        advertised = address.protocol == ROUTER_ADVERTISEMENT and address.index in desired.deaf
        if (address.protocol in OURS or advertised) and (address.index, address.interface) not in wanted:
            yield RemoveAddress(address)
