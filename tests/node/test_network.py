"""Two nodes on two cables: each kind of link looked at from the other node and from its own, what drifts, and the firewall.

``left`` bonds both cables; ``right`` bridges them, so that it is the switch that a bond needs at its other end. The cables are UDP
sockets between the two QEMUs; a cable is pulled by QEMU's ``set_link``.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from osbuild.vm import machines, qmp
from tests.node.conftest import HERE, Boot, Node, until

pytestmark = pytest.mark.node

CABLES = 2
SPEED = "speed=1000,duplex=full"  # without it several modes of a bond use no member
PRESHARED = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

Links = dict[str, dict[str, Any]]


@dataclass
class Pair:
    """The two nodes."""

    left: Node
    right: Node
    directory: Path

    def configure(self, node: Node, links: Links, **kinds: dict[str, Any]) -> None:
        """Give *node* a NetworkConfig and other kinds, and wait until it is so."""
        network = {"links": [{"name": name, **link} for name, link in links.items()], **kinds.pop("network", {})}
        documents = {"NetworkConfig": network, **kinds}
        text = "".join(
            f"---\n{json.dumps({'apiVersion': 'basalt.dev/v1alpha1', 'kind': kind, **document})}\n"
            for kind, document in documents.items()
        )
        path = self.directory / "documents.yaml"
        path.write_text(text)
        node.osctl("apply-config", "--mode", "no-reboot", "-f", path)
        node.until_converged("network", "firewall")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _machine(directory: Path, name: str, number: int, ends: list[tuple[int, int]]) -> Path:
    """A definition like the faulty machine's, with a network card on each cable; *ends* are this end's port and the other's."""
    words = []
    for cable, (here, there) in enumerate(ends):
        local = f"local.type=inet,local.host=127.0.0.1,local.port={here}"
        remote = f"remote.type=inet,remote.host=127.0.0.1,remote.port={there}"
        words += ["-netdev", f"dgram,id=cable{cable},{local},{remote}"]
        words += [
            "-device",
            f"virtio-net-pci,netdev=cable{cable},id=card{cable},mac=52:54:00:00:{number:02x}:{cable:02x},{SPEED}",
        ]
    text = (HERE / "faulty-machine.toml").read_text()
    path = directory / f"{name}.toml"
    path.write_text(text.replace("arguments = [", f"arguments = [{', '.join(map(json.dumps, words))}, "))
    return path


LEFT: Links = {
    "eth0": {"dhcp4": True},
    "bond0": {
        "bond": {"links": ["eth1", "eth2"], "primary": "eth1", "monitorIntervalMs": 50},
        "addresses": ["10.7.0.1/24", "fd07::1/64"],
        "slaac": False,
    },
    "lan5": {"vlan": {"link": "bond0", "id": 5}, "addresses": ["10.7.5.1/24"], "mtu": 1400},
}
# Listed from the top down: the order in the document says nothing.
RIGHT: Links = {
    "lan5": {"vlan": {"link": "br0", "id": 5}, "addresses": ["10.7.5.2/24"]},
    "br0": {"bridge": {"links": ["eth1", "eth2"]}, "addresses": ["10.7.0.2/24", "fd07::2/64"]},
    "eth0": {"dhcp4": True},
}


@pytest.fixture(scope="module")
def pair(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Both nodes, configured with their stacks of links."""
    directory = tmp_path_factory.mktemp("network")
    ports = _free_ports(2 * CABLES)
    ends = list(zip(ports[:CABLES], ports[CABLES:], strict=True))
    left = boot(profile=HERE / "faulty.toml", machine=_machine(directory, "left", 1, ends))
    right = boot(
        profile=HERE / "faulty.toml", machine=_machine(directory, "right", 2, [(there, here) for here, there in ends])
    )
    both = Pair(left, right, directory)
    both.configure(left, LEFT)
    both.configure(right, RIGHT)
    return both


def _reaches(node: Node, address: str) -> bool:
    return bool(node.fault(ping=address)["answered"])


def _calls(node: Node, address: str, port: int) -> str:
    return str(node.fault(connect=[address, port])["outcome"])


def _addresses(link: dict[str, Any]) -> dict[str, str]:
    return {address["address"]: address["source"] for address in link["addresses"]}


def test_bond_vlan_and_bridge_carry_traffic_and_are_shown(pair: Pair) -> None:
    for node, address in (
        (pair.left, "10.7.0.2"),
        (pair.left, "10.7.5.2"),
        (pair.right, "10.7.0.1"),
        (pair.right, "10.7.5.1"),
        (pair.right, "fd07::1"),
    ):
        until(lambda node=node, address=address: _reaches(node, address))  # type: ignore[misc]
    links = pair.left.links()
    bond, vlan = links["bond0"], links["lan5"]
    assert (bond["kind"], bond["bond_mode"], bond["bond_active"]) == ("bond", "active-backup", "eth1")
    assert (vlan["kind"], vlan["parent"], vlan["vlan_id"], vlan["mtu"]) == ("vlan", "bond0", 5, 1400)
    assert {links[name]["master"] for name in ("eth1", "eth2")} == {"bond0"}
    assert _addresses(bond)["10.7.0.1/24"] == _addresses(bond)["fd07::1/64"] == "static"
    assert _addresses(links["eth0"])["10.0.2.15/24"] == "dhcp4"
    assert {"10.7.0.0/24", "fd07::/64"} <= {route["to"] for route in bond["routes"]}
    default = next(route for route in links["eth0"]["routes"] if route["to"] == "default" and "." in route["via"])
    assert (default["via"], default["source"]) == ("10.0.2.2", "dhcp4")
    assert pair.right.links()["br0"]["kind"] == "bridge"


def test_a_pulled_cable_moves_the_bond_to_the_other_and_back(pair: Pair) -> None:
    control = machines.directory_of(pair.left.name) / "qmp.sock"
    qmp.execute(control, "set_link", {"name": "card0", "up": False})
    until(lambda: pair.left.links()["bond0"]["bond_active"] == "eth2")
    assert not pair.left.links()["eth1"]["carrier"]
    until(lambda: _reaches(pair.right, "10.7.0.1"))
    until(lambda: "eth1 has no carrier" in pair.left.concerns()["network"].reason)
    qmp.execute(control, "set_link", {"name": "card0", "up": True})
    until(lambda: pair.left.links()["bond0"]["bond_active"] == "eth1")
    until(lambda: _reaches(pair.right, "10.7.0.1"))
    pair.left.until_converged("network")


def test_wireguard_with_keys_that_never_leave_the_nodes(pair: Pair) -> None:
    links = LEFT | {"wg0": {"wireguard": {"listenPort": 51820}, "addresses": ["10.7.9.1/24"]}}
    pair.configure(pair.left, links)
    left_key = pair.left.links()["wg0"]["wireguard_public_key"]
    peer = {"publicKey": left_key, "presharedKey": PRESHARED, "endpoint": "10.7.5.1:51820", "keepaliveS": 1}
    tunnel = {"wireguard": {"peers": [peer | {"allowedIps": ["10.7.9.0/24"]}]}, "addresses": ["10.7.9.2/24"]}
    pair.configure(pair.right, RIGHT | {"wg0": tunnel})
    right_key = pair.right.links()["wg0"]["wireguard_public_key"]
    callers = [{"publicKey": right_key, "presharedKey": PRESHARED, "allowedIps": ["10.7.9.2/32"]}]
    links["wg0"] = {"wireguard": {"listenPort": 51820, "peers": callers}, "addresses": ["10.7.9.1/24"]}
    pair.configure(pair.left, links)
    until(lambda: _reaches(pair.right, "10.7.9.1"))
    until(lambda: _reaches(pair.left, "10.7.9.2"))
    (shown,) = pair.left.links()["wg0"]["wireguard_peers"]
    assert shown["public_key"] == right_key and shown["allowed_ips"] == ["10.7.9.2/32"]
    assert int(shown["last_handshake_unix"]) > 0
    assert pair.left.fault(stat="/state/wireguard/wg0.key")["mode"] & 0o777 == 0o600
    private = pair.left.fault(read="/state/wireguard/wg0.key")["text"].strip()
    log = pair.left.osctl("logs", "machined")
    assert private not in log and PRESHARED not in log
    assert PRESHARED not in pair.left.osctl("get", "config")


@pytest.mark.parametrize(
    "undone",
    [{"address": "10.7.0.1/24"}, {"member": "eth2"}, {"link": "lan5"}, {"link": "bond0"}],
    ids=lambda undone: " ".join(undone),
)
def test_what_somebody_takes_away_comes_back(pair: Pair, undone: dict[str, str]) -> None:
    pair.left.fault(undo=undone)
    until(lambda: pair.left.links().get("bond0", {}).get("bond_active") == "eth1")
    until(lambda: _reaches(pair.right, "10.7.0.1") and _reaches(pair.right, "10.7.5.1"))
    until(lambda: {pair.left.links()[name]["master"] for name in ("eth1", "eth2")} == {"bond0"})
    pair.left.until_converged("network")


def test_a_route_that_vanished_comes_back(pair: Pair) -> None:
    links = LEFT | {"bond0": LEFT["bond0"] | {"routes": [{"to": "198.51.100.0/24", "via": "10.7.0.2"}]}}
    pair.configure(pair.left, links)
    pair.left.fault(undo={"route": "198.51.100.0/24"})
    until(
        lambda: (
            {"to": "198.51.100.0/24", "via": "10.7.0.2", "metric": 0, "source": "static"}
            in pair.left.links()["bond0"]["routes"]
        )
    )


def test_a_killed_machined_recognises_what_it_made(pair: Pair) -> None:
    pair.configure(pair.left, LEFT)
    before = {name: link["index"] for name, link in pair.left.links().items()}
    assert "wg0" not in before  # taken out of the configuration: gone
    pair.left.fault(kill="machined")
    until(pair.left.answers)
    pair.left.until_converged("network", "firewall")
    assert {name: link["index"] for name, link in pair.left.links().items()} == before
    without = {name: link for name, link in LEFT.items() if name != "lan5"}
    pair.configure(pair.left, without)
    assert "lan5" not in pair.left.links()


def test_a_change_that_needs_the_link_anew_brings_back_what_lies_on_it(pair: Pair) -> None:
    bond = LEFT["bond0"]["bond"]
    changed = LEFT | {
        "bond0": LEFT["bond0"] | {"bond": {"links": bond["links"], "mode": "balance-xor", "transmitHash": "layer2+3"}},
        "lan5": LEFT["lan5"] | {"vlan": {"link": "bond0", "id": 6}},
    }
    pair.configure(pair.left, changed)
    links = pair.left.links()
    assert links["bond0"]["bond_mode"] == "balance-xor" and links["lan5"]["vlan_id"] == 6
    assert "10.7.5.1/24" in _addresses(links["lan5"])
    pair.configure(pair.left, LEFT)
    until(lambda: _reaches(pair.right, "10.7.5.1"))


def test_every_kind_of_option_comes_to_rest(pair: Pair) -> None:
    """What the kernel shows is what was asked for, or the node would change it for ever and say so."""
    bonds: list[dict[str, Any]] = [
        {"mode": "balance-rr"},
        {"mode": "802.3ad", "lacpRate": "fast", "transmitHash": "layer3+4"},
        {"mode": "802.3ad", "lacpRate": "slow", "transmitHash": "encap3+4"},
        {"mode": "broadcast"},
        {"mode": "balance-tlb", "primary": "eth2"},
        {"mode": "balance-alb", "upDelayMs": 200, "downDelayMs": 100},
        {"mode": "active-backup", "primary": "eth2"},
        {"mode": "active-backup", "primary": "eth1", "monitorIntervalMs": 20},
        {"mode": "active-backup"},
    ]
    for number, bond in enumerate(bonds):
        links: Links = {
            "eth0": {"dhcp4": True},
            "bond0": {"bond": {"links": ["eth1", "eth2"], **bond}, "mtu": 1600 + number},
            "outer": {"vlan": {"link": "bond0", "id": 7, "protocol": "802.1ad" if number % 2 else "802.1q"}},
            "inner": {"vlan": {"link": "outer", "id": 8}},
            "br1": {
                "bridge": {"links": ["inner"], "vlanFiltering": bool(number % 3), "stp": number == len(bonds) - 1},
                "addresses": ["10.8.0.1/24"],
            },
        }
        pair.configure(pair.left, links)
        shown = pair.left.links()
        assert (shown["bond0"]["bond_mode"], shown["bond0"]["mtu"]) == (bond["mode"], 1600 + number)
        assert shown["inner"]["master"] == "br1" and "10.8.0.1/24" in _addresses(shown["br1"])
    state = pair.left.fault(read="/sys/class/net/br1/bridge/stp_state")["text"].strip()
    assert state == "1", "the kernel speaks the spanning tree itself: it has no program that would (2)"
    pair.configure(pair.left, LEFT)


def test_links_taken_out_leave_the_cards_as_cards(pair: Pair) -> None:
    pair.configure(pair.left, {"eth0": {"dhcp4": True}, "eth1": {"addresses": ["10.7.0.1/24"]}, "eth2": {"up": False}})
    links = pair.left.links()
    assert not {"bond0", "lan5"} & set(links)
    assert links["eth1"]["master"] == "" and links["eth1"]["up"] and not links["eth2"]["up"]
    until(lambda: _reaches(pair.right, "10.7.0.1"))
    pair.configure(pair.left, LEFT)
    until(lambda: _reaches(pair.right, "10.7.0.1"))


def test_router_advertisements_mtu_and_dns(pair: Pair) -> None:
    def advertised() -> bool:
        return "slaac" in _addresses(pair.left.links()["eth0"]).values()

    until(advertised)
    assert "ra" in {route["source"] for route in pair.left.links()["eth0"]["routes"]}
    deaf = LEFT | {"eth0": {"dhcp4": True, "slaac": False, "mtu": 1420}}
    pair.configure(pair.left, deaf, network={"dns": {"servers": ["192.0.2.53"], "search": ["example.org"]}})
    eth0 = pair.left.links()["eth0"]
    assert eth0["mtu"] == 1420 and not advertised()
    assert "ra" not in {route["source"] for route in eth0["routes"]}
    resolvers = pair.left.fault(read="/run/etc/resolv.conf")["text"]
    assert resolvers == "nameserver 192.0.2.53\nnameserver 10.0.2.3\nsearch example.org\n"
    pair.configure(pair.left, LEFT)
    until(advertised)


def test_a_closed_port_is_closed_until_a_rule_opens_it(pair: Pair) -> None:
    left, right = pair.left, pair.right
    left.fault(listen=8080)
    assert _calls(left, "127.0.0.1", 8080) == "open"
    assert _calls(right, "10.7.0.1", 8080) == "silence"
    assert _calls(right, "10.7.0.1", 50000) == "open"

    def with_rule(**rule: Any) -> None:
        pair.configure(left, LEFT, FirewallConfig={"rules": [{"name": "test", "ports": ["8080"], **rule}]})

    with_rule()
    assert _calls(right, "10.7.0.1", 8080) == "open"
    assert _calls(right, "fd07::1", 8080) == "open"
    with_rule(sources=["10.7.0.0/25"])
    assert _calls(right, "10.7.0.1", 8080) == "open"
    assert _calls(right, "fd07::1", 8080) == "silence"
    with_rule(links=["lan5"])
    assert _calls(right, "10.7.0.1", 8080) == "silence"
    assert _calls(right, "10.7.5.1", 8080) == "open"


def test_the_api_is_open_to_its_sources_alone_and_ping_can_be_silent(pair: Pair) -> None:
    pair.configure(pair.left, LEFT, FirewallConfig={"apiSources": ["10.0.2.0/24"], "ping": False, "logDropped": True})
    assert _calls(pair.right, "10.7.0.1", 50000) == "silence"
    assert not _reaches(pair.right, "10.7.0.1")
    assert _reaches(pair.left, "10.7.0.2")  # answers to what the node asks come in all the same
    until(lambda: "basalt dropped: " in pair.left.osctl("dmesg"))
    pair.configure(pair.left, LEFT)
    assert _calls(pair.right, "10.7.0.1", 50000) == "open"


def test_a_flushed_rule_set_is_loaded_again_and_other_tables_stay(pair: Pair) -> None:
    left = pair.left
    left.fault(run=["/usr/sbin/nft", "flush", "ruleset"])
    until(lambda: _calls(pair.right, "10.7.0.1", 8080) == "silence")
    left.fault(run=["/usr/sbin/nft", "add", "table", "inet", "somebody"])
    left.fault(run=["/usr/sbin/nft", "delete", "chain", "inet", "basalt", "input"])
    until(lambda: _calls(pair.right, "10.7.0.1", 8080) == "silence")
    tables = left.fault(run=["/usr/sbin/nft", "list", "tables"])["text"].split("\n")
    assert "table inet somebody" in tables and "table inet basalt" in tables
    left.until_converged("firewall")
