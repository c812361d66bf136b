"""What fields and documents demand of one another, kind by kind."""

from __future__ import annotations

import pytest

from basalt import config
from basalt.docs_examples import EXAMPLES

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
OTHER_KEY = "yTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PEM = f"-----BEGIN CERTIFICATE-----\\n{'QUJD' * 16}\\n-----END CERTIFICATE-----\\n"


def problems(kind: str, fields: str) -> list[str]:
    text = f"apiVersion: basalt.dev/v1alpha1\nkind: {kind}\n{fields}\n"
    try:
        config.parse(text.encode(), "node.yaml")
    except config.ConfigError as error:
        return [f"{problem.path}: {problem.found}; {problem.allowed}" for problem in error.problems]
    return []


def check(kind: str, fields: str, expected: str) -> None:
    """*expected* is a part of the one problem; empty where there is to be none."""
    found = problems(kind, fields)
    assert len(found) == (1 if expected else 0), found
    assert not expected or expected in found[0]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("name: v, vlan: {link: eth0, id: 5}", ""),
        ("name: v, vlan: {link: eth0, id: 4095}", "links[0].vlan.id: found 4095; a whole number from 1 to 4094"),
        ("name: v, vlan: {link: v, id: 5}", "links[0].vlan.link: found v, the link itself"),
        ("name: v, vlan: {link: lo, id: 5}", "vlan.link: found lo, which is the loopback link; an Ethernet link"),
        ("name: v, vlan: {link: eth0, id: 5}, bridge: {}", "links[0].bridge: both vlan and bridge"),
        (
            "match: {mac: '52:54:00:00:00:01'}, bridge: {}",
            "links[0].match: match for a link that the node makes (bridge)",
        ),
        ("name: lo, bridge: {}", "links[0].name: found lo"),
        ("name: all", "links[0].name: found all: below /proc/sys/net"),
        ("name: a%d, bridge: {}", "links[0].name: found a%d"),
        ("name: b, bond: {links: []}", "links[0].bond.links: found an empty list; at least 1 entry"),
        ("name: b, bond: {links: [eth0, eth0]}", "bond.links[1]: the link eth0 again"),
        ("name: b, bond: {links: [eth0], primary: eth1}", "bond.primary: found eth1, which is no member; eth0"),
        ("name: b, bond: {links: [eth0], primary: eth0}", ""),
        ("name: b, bond: {links: [eth0], primary: eth0, mode: 802.3ad}", "primary in the mode 802.3ad"),
        ("name: b, bond: {links: [eth0], lacpRate: fast}", "lacpRate in the mode active-backup; only in 802.3ad"),
        ("name: b, bond: {links: [eth0], mode: 802.3ad, lacpRate: fast, transmitHash: layer3+4}", ""),
        ("name: b, bond: {links: [eth0], transmitHash: layer3+4}", "transmitHash in the mode active-backup"),
        ("name: b, bond: {links: [eth0], upDelayMs: 150}", "bond.upDelayMs: found 150; a multiple of"),
        ("name: b, bond: {links: [b]}", "bond.links[0]: found b, the link itself"),
        ("name: b, bridge: {links: [eth0, eth0]}", "bridge.links[1]: the link eth0 again"),
        ("name: b, bridge: {links: [lo]}", "bridge.links[0]: found lo, which is the loopback link"),
        ("name: w, wireguard: {}, dhcp4: true", "links[0].dhcp4: found true on a WireGuard link"),
        ("name: w, wireguard: {peers: [{publicKey: abc}]}", "publicKey: found abc: it is no key of 32 bytes"),
        (
            f"name: w, wireguard: {{peers: [{{publicKey: {KEY}}}, {{publicKey: {KEY}}}]}}",
            "peers[1].publicKey: the key",
        ),
        (
            f"name: w, wireguard: {{peers: [{{publicKey: {KEY}, allowedIps: [10.0.0.0/8]}}, "
            f"{{publicKey: {OTHER_KEY}, allowedIps: [10.1.0.0/16, 10.0.0.0/8]}}]}}",
            "peers[1].allowedIps[1]: the network 10.0.0.0/8 again",
        ),
        (
            "name: w, wireguard: {privateKey: abc}",
            "wireguard.privateKey: a secret that is not valid; 32 bytes in base64",
        ),
        ("name: e, dhcp6: true, mtu: 1000", "links[0].mtu: found 1000 on a link with IPv6"),
    ],
)
def test_link_by_itself(link: str, expected: str) -> None:
    check("NetworkConfig", f"links: [{{{link}}}]", expected)


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (["name: eth0, up: false", "name: b, bond: {links: [eth0]}"], ""),
        (["name: b, bond: {links: [eth0, eth1]}", "name: v, vlan: {link: b, id: 1}"], ""),
        (
            ["name: b, bond: {links: [eth0]}", "name: c, bridge: {links: [eth0]}"],
            "eth0, which is a member of b already",
        ),
        (
            ["name: b, bond: {links: [eth0]}", "name: eth0, dhcp4: true"],
            "found eth0, which has dhcp4 of its own; these in b",
        ),
        (
            ["name: b, bridge: {links: [eth0]}", "name: eth0, addresses: [10.0.0.1/8], dhcp6: true"],
            "has addresses and dhcp6 of its own",
        ),
        (
            ["name: b, bridge: {links: [c]}", "name: c, bridge: {}"],
            "found c, which is bridge; network cards, VLANs and bonds",
        ),
        (["name: b, bridge: {links: [c]}", "name: c, bond: {links: [eth0]}"], ""),
        (
            ["name: b, bond: {links: [c]}", "name: c, bond: {links: [eth0]}"],
            "found c, which is bond; network cards and VLANs",
        ),
        (["name: b, bond: {links: [w]}", "name: w, wireguard: {}"], "found w, which is wireguard"),
        (
            ["name: v, vlan: {link: w, id: 1}", "name: w, wireguard: {}"],
            "found w, which is wireguard; an Ethernet link",
        ),
        (
            ["name: b, bond: {links: [eth0]}", "name: v, vlan: {link: eth0, id: 1}"],
            "found eth0, a member of b; b, which",
        ),
        (
            ["name: v, vlan: {link: eth0, id: 1}", "name: w, vlan: {link: eth0, id: 1}"],
            "the tag 1 (802.1q) on eth0 again",
        ),
        (["name: v, vlan: {link: eth0, id: 1}", "name: w, vlan: {link: eth0, id: 1, protocol: 802.1ad}"], ""),
        (
            ["name: eth0, mtu: 1500", "name: v, mtu: 9000, vlan: {link: eth0, id: 1}"],
            "links[1].mtu: found 9000 on top of eth0",
        ),
        (["name: eth0, mtu: 9000", "name: v, mtu: 9000, vlan: {link: eth0, id: 1}"], ""),
        (["name: v, vlan: {link: w, id: 1}", "name: w, vlan: {link: v, id: 1}"], "links[0]: v on w on v"),
        (["name: b, bridge: {links: [v]}", "name: v, vlan: {link: b, id: 1}"], "links[0]: b on v on b"),
        (
            ["name: v, wireguard: {listenPort: 1}", "name: w, wireguard: {listenPort: 1}"],
            "listenPort: the port 1 again",
        ),
    ],
)
def test_links_together(links: list[str], expected: str) -> None:
    check("NetworkConfig", "links:\n" + "\n".join(f"- {{{link}}}" for link in links), expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("net.core.somaxconn", "4096", ""),
        ("net.ipv4.ip_forward", "1", ""),
        ("kernel.panic", "60", ""),
        (
            "kernel.panic",
            "0",
            "$.sysctls['kernel.panic']: found 0, which would keep a crashed node down; any number but 0",
        ),
        ("kernel/kptr_restrict", "0", "found 0, which would show where the kernel's code lies; 2"),
        ("kernel.hostname", "x", "kernel.hostname belongs to another field; MachineConfig's hostname"),
        ("net/ipv6/conf/eth0.5/accept_ra", "0", "belongs to another field; slaac"),
        ("net.ipv6.conf.eth0/5.accept_ra", "0", "belongs to another field; slaac"),
        ("net.ipv4.icmp_echo_ignore_all", "1", "ping in FirewallConfig"),
        ("kernel.core_pattern", "'|/bin/x'", "has the kernel run a program"),
        ("kernel.modprobe", "/x", "has the kernel run a program"),
        ("kernel.modules_disabled", "1", "cannot be taken back"),
        ("net.ipv4.conf.all.promote_secondaries", "0", "would drop a network's addresses"),
        ("net.ipv4.conf.eth0.promote_secondaries", "1", ""),
        ("vm.drop_caches", "3", "is an order"),
        ("kernel.unprivileged_bpf_disabled", "0", "programs into the kernel"),
        ("net.ipv6.conf.all.accept_source_route", "-1", ""),
        ("net.ipv4.tcp_syncookies", "0", "a flood of connections"),
    ],
)
def test_kernel_setting(name: str, value: str, expected: str) -> None:
    check("MachineConfig", f"hostname: a\nsysctls: {{{name}: {value}}}", expected)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("MachineConfig", "hostname: a\nmodules: [{name: a_b}, {name: a-b}]", "modules[1].name: the module a_b again"),
        (
            "MachineConfig",
            "hostname: a\nlogging: {destinations: [{endpoint: 'udp://A:1'}, {endpoint: 'udp://a:1/'}]}",
            "destinations[1].endpoint: the collector udp://a:1 again",
        ),
        (
            "MachineConfig",
            "hostname: a\nlogging: {destinations: [{endpoint: 'udp://a:1', services: [x, x]}]}",
            "destinations[0].services[1]: the service x again",
        ),
        ("MachineConfig", "hostname: a\nwatchdog: {timeoutS: 5}", "a whole number from 20 to 600"),
        ("AccessConfig", f'clientAuthorities: ["{PEM}", "{PEM}"]', "clientAuthorities[1]: the same certificate again"),
        (
            "AccessConfig",
            f'clientAuthorities: ["{PEM}"]\nrevokedSerials: [0A:1b, a1b]',
            "revokedSerials[1]: the serial a1b again",
        ),
        ("AccessConfig", "clientAuthorities: []", "clientAuthorities: found an empty list"),
        ("AccessConfig", "clientAuthorities: [abc]", "found abc: it is not one PEM certificate"),
        ("RegistryConfig", "mirrors: [{registry: a, endpoints: []}]", "endpoints: found an empty list"),
        (
            "RegistryConfig",
            "mirrors: [{registry: '*', endpoints: ['http://a']}, {registry: '*', endpoints: ['http://b']}]",
            "mirrors[1].registry: the registry * again",
        ),
        (
            "RegistryConfig",
            "mirrors: [{registry: a, endpoints: ['http://a', 'http://A/']}]",
            "endpoints[1]: the endpoint",
        ),
        ("RegistryConfig", "auth: [{host: '*', username: a, password: b}]", "auth[0].host: found the text '*'"),
        ("RegistryConfig", "auth: [{host: a, username: a, password: b}]", ""),
        ("RegistryConfig", "auth: [{host: a, identityToken: b}]", ""),
        (
            "RegistryConfig",
            "auth: [{host: a}]",
            "auth[0]: no credentials for a; username and password, or identityToken",
        ),
        ("RegistryConfig", "auth: [{host: a, username: b}]", "auth[0]: username without password"),
        ("RegistryConfig", "auth: [{host: a, password: b}]", "auth[0]: password without username"),
        (
            "RegistryConfig",
            "auth: [{host: a, username: b, identityToken: c}]",
            "username: both identityToken and username",
        ),
        (
            "RegistryConfig",
            "auth: [{host: a, identityToken: b}, {host: A, identityToken: c}]",
            "auth[1].host: the host a again",
        ),
        (
            "RegistryConfig",
            "mirrors: [{registry: a, endpoints: ['https://user:hunter2@b']}]",
            "found the text 'https://...@b': it is no http:// or https:// address without user",
        ),
        ("VolumeConfig", "name: a\ndisk: {}", "VolumeConfig a: $.disk: found nothing that says which disk"),
        ("VolumeConfig", "name: a\ndisk: {sizeMin: 2TB, sizeMax: 1TiB}", "VolumeConfig a: $.disk.sizeMin: found 2TB"),
        ("VolumeConfig", "name: a\ndisk: {sizeMin: 1 TB, sizeMax: 1TiB}", ""),
        ("VolumeConfig", "name: a\ndisk: {sizeMin: 1 XB}", "found 1 XB: it is no size"),
        ("VolumeConfig", "name: A\ndisk: {serial: x}", "VolumeConfig A: $.name: found A"),
        ("VolumeConfig", "disk: {serial: x}", "VolumeConfig: $.name: name is missing"),
        ("FirewallConfig", "rules: [{name: a, ports: [1]}, {name: a, ports: [2]}]", "rules[1].name: the rule a again"),
        ("FirewallConfig", "rules: [{name: a, ports: [1, 1-1]}]", "rules[0].ports[1]: the port 1 again"),
        ("FirewallConfig", "rules: [{name: a, ports: [2-1]}]", "found 2-1: it ends before it begins"),
        ("FirewallConfig", "rules: [{name: a, ports: [0]}]", "a port is a number from 1 to 65535"),
        ("FirewallConfig", "rules: [{name: a, ports: [1], links: [a, a]}]", "links[1]: the link a again"),
        (
            "FirewallConfig",
            "rules: [{name: a, ports: [1], sources: [10.0.0.1, 10.0.0.1/32]}]",
            "the network 10.0.0.1/32 again",
        ),
        ("FirewallConfig", "rules: [{name: a, ports: [1], links: ['a\"b']}]", "links[0]: found the text 'a\"b'"),
        ("FirewallConfig", "rules: [{name: a, ports: [1-65535]}]", ""),
        (
            "FirewallConfig",
            "apiSources: [10.0.0.0/8]\nrules: [{name: a, ports: [1-65535]}]",
            "rules[0].ports[0]: found 1-65535, with the API's port 50000; others: apiSources says who may",
        ),
        ("FirewallConfig", "apiSources: [10.0.0.0/8]\nrules: [{name: a, protocol: udp, ports: [50000]}]", ""),
        ("ServiceConfig", "name: containrd", "$.name: found containrd; chronyd or containerd"),
        ("ServiceConfig", "name: containerd\nenvironment: {HTTPS_PROXY: 'http://a'}", ""),
        ("ServiceConfig", "name: containerd\nenvironment: {HTTPS_PROXY: ''}", ""),
        ("ServiceConfig", "name: containerd\nenvironment: {LD_PRELOAD: x}", "LD_PRELOAD, which decides what code"),
        ("ServiceConfig", "name: chronyd\nenvironment: {PYTHONPATH: x}", "PYTHONPATH, which decides what code"),
        ("ServiceConfig", "name: chronyd\nenvironment: {PATH: x}", "PATH, which decides what code"),
        ("ServiceConfig", 'name: chronyd\nenvironment: {A: "x\\ny"}', "environment.A: a secret that is not valid"),
        ("ServiceConfig", "name: chronyd\nmemoryMax: 512", "memoryMax: found 512; at least 16MiB"),
    ],
)
def test_other_kinds(kind: str, fields: str, expected: str) -> None:
    check(kind, fields, expected)


def volume(name: str, disk: str) -> str:
    return f"apiVersion: basalt.dev/v1alpha1\nkind: VolumeConfig\nname: {name}\ndisk: {{{disk}}}\n"


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([volume("a", "serial: x"), volume("b", "serial: y")], []),
        (
            [volume("b", "serial: x"), volume("a", "serial: x")],
            ["node.yaml:4:7: VolumeConfig b: $.disk: the same disk as VolumeConfig a; allowed: a disk for each volume"],
        ),
        (
            [volume("a", "serial: x"), volume("a", "serial: y")],
            [
                "node.yaml:7:7: VolumeConfig a: $.kind: a second VolumeConfig a; allowed: one; the first stands in line 2"
            ],
        ),
        (
            [volume("a", "serial: ''"), volume("b", "serial: ' '")],
            [
                "node.yaml:4:16: VolumeConfig a: $.disk.serial: found the text '': it has 0 characters; "
                "allowed: 1 to 255 printable characters, no space at an end",
                "node.yaml:9:16: VolumeConfig b: $.disk.serial: found the text ' ': a space at an end; "
                "allowed: 1 to 255 printable characters, no space at an end",
            ],
        ),
    ],
)
def test_named_documents_together(documents: list[str], expected: list[str]) -> None:
    try:
        config.parse("---\n".join(documents).encode(), "node.yaml")
        found = []
    except config.ConfigError as error:
        found = [str(problem) for problem in error.problems]
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "auth: hunter2",
        "auth: [hunter2]",
        "auth: [{host: a, username: b, password: *hunter2}]",
        "auth: [{host: a, username: b, password: &hunter2 x}]",
        "auth: [{host: a, username: b, password: !hunter2 x}]",
        "auth: [{host: a, username: b, password=hunter2}]",
        'auth: [{host: a, username: b, password: "hunter2\\n"}]',
        "auth: [{host: a, username: b, password: '[redacted hunter2]'}]",
    ],
)
def test_what_may_be_a_secret_is_not_repeated(text: str) -> None:
    found = problems("RegistryConfig", text)
    assert found
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    "text",
    ["environment: A=hunter2", "environment: [A=hunter2]", "environment: {A=hunter2: }", "environment: {A: [hunter2]}"],
)
def test_environment_is_not_repeated(text: str) -> None:
    found = problems("ServiceConfig", f"name: containerd\n{text}")
    assert found
    assert "hunter2" not in "".join(found)


def test_examples_break_no_rule() -> None:
    assert config.parse("---\n".join(EXAMPLES.values()).encode(), "examples").documents
