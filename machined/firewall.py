"""The concern "firewall": the nftables table ``inet basalt``, which decides what reaches the node itself.

What it should be is a script for ``nft``, made by pure functions from the configuration. A script replaces the whole table in one
transaction, so there is no moment with half of it or none. Other tables (those of CNI plugins and kube-proxy) are never touched. Of
what is forwarded only that for workloads is looked at: their own network lets in what they publish, and nothing else.

Drift: the kernel counts its transactions (the generation of the rule set) and announces each. Only when that number has moved is the
table listed, and compared with what it was right after it was loaded.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from basalt.config.documents import FirewallConfig, FirewallRule, NetworkConfig
from basalt.errors import BasaltError
from machined import paths
from machined.containernet import BRIDGE
from machined.network.kernel import Conversation, Listener, attributes, frame
from machined.reconcile import CONVERGED, Status, failed

TABLE = "basalt"
_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_GET_GENERATION = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_GENERATION_ID = 1  # NFTA_GEN_ID
_NFGENMSG = struct.Struct("=BBH")
_LOG_RATE = "5/second burst 20 packets"  # a scan must not fill the kernel's log

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Openings(Struct, frozen=True):
    """What the node's own network needs let in, besides what the firewall's document says."""

    dhcp4: bool = False
    dhcp6: bool = False
    wireguard_ports: tuple[int, ...] = ()


def openings(network: NetworkConfig | None) -> Openings:
    """What *network* needs. Without a document every card asks for an address."""
    if network is None:
        return Openings(dhcp4=True)
    links = [link for link in network.links if link.up]
    ports = {link.wireguard.listen_port for link in links if link.wireguard and link.wireguard.listen_port}
    return Openings(
        any(link.dhcp4 for link in links), any(link.dhcp6 for link in links), tuple(sorted(port for port in ports))
    )


def script(config: FirewallConfig | None, needs: Openings, api_port: int = paths.API_PORT) -> str:
    """The whole table, for ``nft -f -``."""
    return _render((config or FirewallConfig()), needs, api_port)


def bare_script(config: FirewallConfig | None, needs: Openings, api_port: int = paths.API_PORT) -> str:
    """The table without the document's rules and its log: what is loaded when the kernel refuses the whole."""
    return _render(FirewallConfig(api_sources=config.api_sources if config else ()), needs, api_port)


def _render(config: FirewallConfig, needs: Openings, api_port: int) -> str:
    lines = [
        f"table inet {TABLE}",  # so that there is one to delete
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        "  chain input {",
        "    type filter hook input priority filter; policy drop;",
        *(f"    {line}" for line in _rules(config, needs, api_port)),
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter; policy accept;",
        *(f"    {line}" for line in _forward_rules()),
        "  }",
        "}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _rules(config: FirewallConfig, needs: Openings, api_port: int) -> Iterator[str]:
    yield _accept("ct state established,related", "answers to what the node asked")
    yield _accept('iif "lo"', "the node itself")
    # RFC 4890, section 4.4: without these IPv6 neither finds its neighbours nor learns what fits through.
    yield _accept("icmp type { destination-unreachable, time-exceeded, parameter-problem }", "ICMP errors")
    yield _accept(
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }", "ICMPv6 errors"
    )
    neighbours = "nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-redirect"
    # A hop limit of 255 proves that it comes from the link itself (RFC 4861).
    yield _accept(f"icmpv6 type {{ {neighbours} }} ip6 hoplimit 255", "neighbour discovery")
    yield _accept("icmpv6 type mld-listener-query ip6 saddr fe80::/10", "switches that ask who listens")
    yield "ct state invalid counter drop"
    if config.ping:
        yield _accept("icmp type echo-request", "ping")
        yield _accept("icmpv6 type echo-request", "ping")
    yield from _opened(f"tcp dport {api_port}", config.api_sources, "API")
    if needs.dhcp4:
        yield _accept("meta nfproto ipv4 udp sport 67 udp dport 68", "DHCP")
    if needs.dhcp6:
        yield _accept("ip6 saddr fe80::/10 udp dport 546", "DHCPv6")
    if needs.wireguard_ports:
        yield _accept(f"udp dport {_set(map(str, needs.wireguard_ports))}", "WireGuard")
    for rule in config.rules:
        yield from _rule(rule)
    # What was meant for everybody on the link is nobody's attempt to get in.
    yield "meta pkttype { broadcast, multicast } counter drop"
    if config.log_dropped:
        yield f'limit rate {_LOG_RATE} log prefix "basalt dropped: " level info'
    yield 'counter comment "dropped"'


def _forward_rules() -> Iterator[str]:
    """What reaches workloads behind the node's address: answers, each other, and what was sent to a published port."""
    yield f'oifname != "{BRIDGE}" accept'
    yield _accept("ct state established,related", "answers to what workloads asked")
    yield _accept(f'iifname "{BRIDGE}"', "workloads among themselves")
    yield _accept("ct status dnat", "published ports")
    yield 'counter drop comment "not published"'


def _rule(rule: FirewallRule) -> Iterator[str]:
    links = f"iifname {_set(f'{chr(34)}{name}{chr(34)}' for name in rule.links)} " if rule.links else ""
    yield from _opened(f"{links}{rule.protocol} dport {_set(_port_ranges(rule.ports))}", rule.sources, rule.name)


def _opened(match: str, sources: Sequence[str], comment: str) -> Iterator[str]:
    """Rules that let *match* in, from *sources* alone when there are any."""
    if not sources:
        yield _accept(match, comment)
        return
    networks = [ipaddress.ip_network(source) for source in sources]
    for version, family in ((4, "ip"), (6, "ip6")):
        own = [network for network in networks if network.version == version]
        if own:
            yield _accept(f"{family} saddr {_set(_collapsed(own))} {match}", comment)


def _accept(match: str, comment: str) -> str:
    return f'{match} counter accept comment "{comment}"'


def _set(elements: Iterable[str]) -> str:
    return f"{{ {', '.join(elements)} }}"


def _collapsed(networks: list[_Network]) -> list[str]:
    """Networks without overlaps: nft refuses a set in which one element lies in another."""
    v4 = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    return [*map(str, ipaddress.collapse_addresses(v4)), *map(str, ipaddress.collapse_addresses(v6))]


def _port_ranges(ports: Sequence[str]) -> Iterator[str]:
    """Ports and ranges in order, those that touch or overlap made one."""
    ends = sorted((int(first), int(last or first)) for first, _, last in (port.partition("-") for port in ports))
    merged: list[tuple[int, int]] = []
    for first, last in ends:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return (str(first) if first == last else f"{first}-{last}" for first, last in merged)


class RuleSet:
    """The kernel's side: how often its rules have changed, and who changes our table."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._kernel = Conversation(_NETLINK_NETFILTER)
        self._listener = Listener(_NETLINK_NETFILTER, (_GROUP_NFTABLES,), self._heard)

    def start(self) -> None:
        """Begin to listen for changes of our table."""
        self._listener.start()

    def close(self) -> None:
        """Close the sockets."""
        self._listener.close()
        self._kernel.close()

    def _heard(self, data: bytes | None) -> None:
        # Each message of our table names it in its first attribute. Others change theirs all the time (kube-proxy).
        if data is None or f"{TABLE}\0".encode() in data:
            self._on_change()

    async def generation(self) -> int:
        """A number that moves whenever any table changes.

        :raises OSError: the kernel has no nftables.
        """
        payload = _NFGENMSG.pack(0, 0, 0)
        number = 0
        async for _, _, message in self._kernel.ask(_GET_GENERATION, 0, lambda header: frame(header, payload)):
            for kind, value in attributes(message[16 + _NFGENMSG.size :]):
                if kind == _GENERATION_ID:
                    number = int.from_bytes(value, "big")
        return number


class FirewallReconciler:
    """Keeps the table as it should be.

    :param nft: runs ``nft`` with some words and standard input, and returns what it says (:func:`machined.tools.run`).
    :param generation: :meth:`RuleSet.generation`.
    """

    def __init__(
        self,
        nft: Callable[[Sequence[str], bytes], Awaitable[str]],
        generation: Callable[[], Awaitable[int]],
        *,
        firewall: Callable[[], FirewallConfig | None],
        network: Callable[[], NetworkConfig | None],
    ) -> None:
        self._nft = nft
        self._generation = generation
        self._firewall = firewall
        self._network = network
        self._loaded = ""  # the script in force
        self._listing: str | None = (
            None  # what the kernel showed of it; None until the look after the one that loaded it
        )
        self._seen = 0  # the generation at which that was so
        self._complaint = ""

    async def reconcile(self) -> Status:
        """One look, and what follows from it."""
        config, needs = self._firewall(), openings(self._network())
        wanted = script(config, needs)
        if wanted != self._loaded or self._complaint or await self._drifted():
            await self._load(wanted, bare_script(config, needs))
        if self._complaint:
            return failed(
                f"the kernel refused the rules: {self._complaint}",
                "the API is open and everything else closed; correct the FirewallConfig",
            )
        return CONVERGED

    async def _drifted(self) -> bool:
        generation = await self._generation()
        if generation == self._seen and self._listing is not None:
            return False
        try:
            listing = await self._list()
        except BasaltError:  # the table is gone
            listing = None
        expected = listing if generation == self._seen else self._listing
        if listing is None or listing != expected or await self._generation() != generation:
            print("firewall: somebody changed the rules; loading them again", flush=True)
            return True
        self._seen, self._listing = generation, listing
        return False

    async def _load(self, wanted: str, bare: str) -> None:
        try:
            await self._nft(["-f", "-"], wanted.encode())
            self._complaint = ""
        except BasaltError as error:
            # What was loaded before stands, for nft changes all or nothing; but it is not what is wanted any more, and at the boot
            # there is nothing yet.
            self._complaint = error.why or str(error)
            await self._nft(["-f", "-"], bare.encode())
        self._loaded = wanted
        # Listing it takes as long as loading it, and the boot waits: the look that the kernel's own event brings does that.
        self._seen, self._listing = await self._generation(), None

    async def _list(self) -> str:
        return await self._nft(["-s", "list", "table", "inet", TABLE], b"")
