"""The firewall: the table as text, and when it is loaded again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from basalt.config.documents import FirewallConfig, FirewallRule, Link, NetworkConfig, Wireguard
from basalt.errors import BasaltError
from machined.firewall import FirewallReconciler, Openings, bare_script, openings, script
from machined.reconcile import CONVERGED, State


def rules(config: FirewallConfig | None, needs: Openings | None = None) -> list[str]:
    """The rules as text, without their counters."""
    lines = script(config, needs or Openings()).splitlines()
    begin = next(number for number, line in enumerate(lines) if "policy drop" in line) + 1
    return [line.strip().replace(" counter", "") for line in lines[begin:-2]]


def test_without_a_document_the_api_and_ping_are_open_and_nothing_else() -> None:
    text = script(None, Openings())
    assert "type filter hook input priority filter; policy drop;" in text
    assert [line for line in rules(None) if "dport" in line] == ['tcp dport 50000 accept comment "API"']
    assert 'icmp type echo-request accept comment "ping"' in rules(None)
    assert "output" not in text


def test_of_what_is_forwarded_only_the_workloads_network_is_looked_at() -> None:
    """Others' forwarding, a cluster's for one, passes at once; into the workloads' network comes what they publish."""
    chain = script(None, Openings()).partition("chain forward {")[2].partition("}")[0]
    lines = [line.strip().replace("counter ", "") for line in chain.splitlines() if line.strip()]
    assert lines == [
        "type filter hook forward priority filter; policy accept;",
        'oifname != "basalt0" accept',
        'ct state established,related accept comment "answers to what workloads asked"',
        'iifname "basalt0" accept comment "workloads among themselves"',
        'ct status dnat accept comment "published ports"',
        'drop comment "not published"',
    ]


def test_the_table_is_replaced_in_one_transaction() -> None:
    assert script(None, Openings()).splitlines()[:3] == [
        "table inet basalt",
        "delete table inet basalt",
        "table inet basalt {",
    ]


def test_sources_of_the_api_are_sorted_by_family_and_do_not_overlap() -> None:
    config = FirewallConfig(api_sources=("10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"))
    assert [line for line in rules(config) if "API" in line] == [
        'ip saddr { 10.0.0.0/8, 192.0.2.7/32 } tcp dport 50000 accept comment "API"',
        'ip6 saddr { 2001:db8::/32 } tcp dport 50000 accept comment "API"',
    ]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (FirewallRule(name="web", ports=("443",)), "tcp dport { 443 } accept"),
        (FirewallRule(name="dns", protocol="udp", ports=("53",)), "udp dport { 53 } accept"),
        (
            FirewallRule(name="range", ports=("30000-32767", "30001", "80", "32768", "443-444")),
            "tcp dport { 80, 443-444, 30000-32768 } accept",
        ),
        (
            FirewallRule(name="inside", ports=("9100",), sources=("10.0.0.0/8",), links=("eth1", "bond0.5")),
            'ip saddr { 10.0.0.0/8 } iifname { "eth1", "bond0.5" } tcp dport { 9100 } accept',
        ),
    ],
)
def test_rules(rule: FirewallRule, text: str) -> None:
    assert f'{text} comment "{rule.name}"' in rules(FirewallConfig(rules=(rule,)))


def test_ping_can_be_left_unanswered_and_drops_be_logged() -> None:
    quiet = rules(FirewallConfig(ping=False, log_dropped=True))
    assert not any("echo-request" in line for line in quiet)
    assert 'limit rate 5/second burst 20 packets log prefix "basalt dropped: " level info' in quiet
    assert any("packet-too-big" in line for line in quiet)  # path MTU discovery is not a matter of taste


def test_the_nodes_own_network_is_let_in() -> None:
    assert openings(None) == Openings(dhcp4=True)
    network = NetworkConfig(
        links=(
            Link(name="eth0", dhcp6=True),
            Link(name="eth1", dhcp4=True, up=False),
            Link(name="wg0", wireguard=Wireguard(listen_port=51820)),
            Link(name="wg1", wireguard=Wireguard()),
        )
    )
    needs = openings(network)
    assert needs == Openings(dhcp6=True, wireguard_ports=(51820,))
    lines = rules(None, needs)
    assert 'udp dport { 51820 } accept comment "WireGuard"' in lines
    assert 'ip6 saddr fe80::/10 udp dport 546 accept comment "DHCPv6"' in lines
    assert not any('DHCP"' in line for line in lines)


class ScriptedNft:
    """Stands for nft and the kernel, which a test without privileges does not have."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.generation = 1
        self.table: str | None = None
        self.refuses = ""

    async def __call__(self, words: Sequence[str], stdin: bytes) -> str:
        if "list" in words:
            if self.table is None:
                raise BasaltError("nft failed", why="No such file or directory")
            return self.table
        if self.refuses and self.refuses in stdin.decode():
            raise BasaltError("nft failed", why="no")
        self.table = stdin.decode()
        self.loaded.append(self.table)
        self.generation += 1
        return ""

    async def number(self) -> int:
        return self.generation


def test_it_is_loaded_when_it_differs_and_when_somebody_changed_it() -> None:
    async def play() -> None:
        nft = ScriptedNft()
        config: list[FirewallConfig | None] = [None]
        firewall = FirewallReconciler(nft, nft.number, firewall=lambda: config[0], network=lambda: None)
        for _ in range(3):
            assert await firewall.reconcile() == CONVERGED
        assert len(nft.loaded) == 1
        nft.generation += 1  # somebody else's table
        assert await firewall.reconcile() == CONVERGED
        assert len(nft.loaded) == 1
        nft.generation += 1
        nft.table = None  # nft flush ruleset
        assert await firewall.reconcile() == CONVERGED
        assert len(nft.loaded) == 2
        nft.generation += 1  # before the kernel's account of it was taken: nobody knows what has changed
        assert await firewall.reconcile() == CONVERGED
        assert len(nft.loaded) == 3
        config[0] = FirewallConfig(ping=False)
        assert await firewall.reconcile() == CONVERGED
        assert "echo-request" not in nft.loaded[-1]

    asyncio.run(play())


def test_rules_that_the_kernel_refuses_leave_the_api_open_and_the_rest_closed() -> None:
    async def play() -> None:
        nft = ScriptedNft()
        nft.refuses = "log prefix"
        config = FirewallConfig(log_dropped=True, rules=(FirewallRule(name="web", ports=("443",)),))
        firewall = FirewallReconciler(nft, nft.number, firewall=lambda: config, network=lambda: None)
        for _ in range(2):
            status = await firewall.reconcile()
            assert status.state is State.FAILED and "refused the rules: no" in status.reason
        assert set(nft.loaded) == {bare_script(config, Openings(dhcp4=True))}
        nft.refuses = ""
        assert await firewall.reconcile() == CONVERGED
        assert nft.loaded[-1] == script(config, Openings(dhcp4=True))

    asyncio.run(play())
