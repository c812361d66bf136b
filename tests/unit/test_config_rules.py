"""What fields and documents demand of one another, kind by kind."""

from __future__ import annotations

import pytest

from basalt import config
from basalt.docs_examples import EXAMPLES

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
OTHER_KEY = "yTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PEM = f"-----BEGIN CERTIFICATE-----\\n{'QUJD' * 16}\\n-----END CERTIFICATE-----\\n"
KEY_PEM = "\n\n".join(  # in YAML's quotes, an empty line is a line's end
    [
        "-----BEGIN PUBLIC KEY-----",
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEz0VUMArKFhx2/+P65Sb5Lkyq2j//",
        "AVycAdHPB3sSohF1bOKD4Fl6L+mTKat81Q7AMxcbIicwgliJfpcBI07iUg==",
        "-----END PUBLIC KEY-----",
    ]
)


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
        ("RegistryConfig", f"signatures: [{{images: a.example/b, keys: ['{KEY_PEM}']}}]", ""),
        (
            "RegistryConfig",
            f"signatures: [{{images: A.example/b/*, keys: ['{KEY_PEM}']}}, {{images: a.example/b, keys: ['{KEY_PEM}']}}]",
            "signatures[1].images: the images a.example/b again; each once",
        ),
        ("RegistryConfig", "signatures: [{images: '*', keys: []}]", "signatures[0].keys: found an empty list"),
        ("RegistryConfig", "signatures: [{images: '*'}]", "signatures[0].keys: keys is missing"),
        (
            "RegistryConfig",
            f"signatures: [{{images: '*', keys: ['{KEY_PEM}', ' {KEY_PEM}']}}]",
            "signatures[0].keys[1]: the same key again; each once",
        ),
        (
            "RegistryConfig",
            f"signatures: [{{images: 'a.example/b:1', keys: ['{KEY_PEM}']}}]",
            "signatures[0].images: found the text 'a.example/b:1': a tag or digest has no place here",
        ),
        (
            "RegistryConfig",
            "signatures: [{images: '*', keys: [abc]}]",
            "signatures[0].keys[0]: found abc: this is not one key in PEM; one public key in PEM: ECDSA",
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
        ("ServiceConfig", "name: containerd\nsettings: '[debug]\n\n  level = \"debug\"'", ""),
        ("ServiceConfig", "name: containerd\nsettings: '[debug'", "settings: found the text '[debug': Expected ']'"),
        ("ServiceConfig", "name: chronyd\nsettings: 'a = 1'", "settings of chronyd; settings of containerd"),
        ("ServiceConfig", "name: containerd\nsettings: 'root = \"/\"'", "found root; names below plugins, debug"),
    ],
)
def test_other_kinds(kind: str, fields: str, expected: str) -> None:
    check(kind, fields, expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", ""),
        ("image: 'nginx:'", "containers[0].image: found the text 'nginx:': its tag is not 1 to 128 letters"),
        ("image: user/App", "found user/App: upper-case letters in its path; an image's name: HOST/PATH:TAG"),
        ("workingDir: /", ""),
        ("workingDir: srv", "workingDir: found srv: it does not begin with '/'"),
        ("command: [sh, -c, 'exit 1'], args: ['', 1, 0.5]", ""),
        ('args: ["a\\0b"]', "args[0]: found the text 'a\\x00b': a NUL, which would end it; up to 32768 characters"),
        (f"args: [{'a' * 32769}]", "it has 32769 characters"),
        ("env: {A: }", "env.A: found nothing; up to 32768 characters"),
        ("env: {A-B: x}", "env['A-B']: found the text 'A-B': it is no name of a variable"),
        ("devices: [vendor.com/gpu=0, vendor.com/gpu=all]", ""),
        ("devices: [vendor.com/gpu=0, vendor.com/gpu=0]", "devices[1]: the device vendor.com/gpu=0 again"),
        ("devices: [gpu=0]", "devices[0]: found gpu=0: it is no name of a CDI device; VENDOR/CLASS=DEVICE"),
        ("devices: [vendor.com/g=0]", "it is no name of a CDI device"),
        ("resources: {cpu: 0.01, pids: 1, memory: 4MiB}", ""),
        ("resources: {cpu: 0}", "resources.cpu: found 0: it is less than 0.01; a number from 0.01 to 1024"),
        ("resources: {cpu: 1024.001}", "found 1024.001: it is more than 1024"),
        ("resources: {cpu: 500m}", "found 500m: it is no number with up to three decimals"),
        ("resources: {memory: 512}", "resources.memory: found 512; at least 4MiB; a number without a unit is bytes"),
        ("resources: {hugepages: [{page: 2MiB, limit: 64MiB}, {page: 1GiB, limit: 1GiB}]}", ""),
        ("resources: {hugepages: [{page: 4KiB, limit: 4KiB}]}", "page: found 4KiB: pages have another size; 2MiB or"),
        (
            "resources: {hugepages: [{page: 2MiB, limit: 2MiB}, {page: 2048KiB, limit: 4MiB}]}",
            "resources.hugepages[1].page: the size 2MiB again",
        ),
        (
            "resources: {hugepages: [{page: 2MiB, limit: 3MiB}]}",
            "hugepages[0].limit: found 3MiB; a multiple of the page (2MiB)",
        ),
        ("security: {user: 1000}", ""),
        ("security: {user: 'nobody:0'}", ""),
        ("security: {user: 4294967295}", "user: found 4294967295: the last number is 4294967294"),
        ("security: {user: a:b:c}", "user: found a:b:c: more than one ':'"),
        ("security: {user: 'a:'}", "found the text 'a:': it is no name of a user or group"),
        ("security: {dropCapabilities: [ALL], addCapabilities: [CAP_CHOWN, net_bind_service]}", ""),
        (
            "security: {addCapabilities: [NET_ADMN]}",
            "addCapabilities[0]: found NET_ADMN: the kernel has no such capability",
        ),
        ("security: {addCapabilities: [all]}", "addCapabilities[0]: found ALL; names; ALL is for dropCapabilities"),
        ("security: {addCapabilities: [KILL, CAP_KILL]}", "addCapabilities[1]: the capability KILL again"),
        (
            "security: {addCapabilities: [KILL], dropCapabilities: [KILL]}",
            "addCapabilities[0]: found KILL, which is dropped too; each in one of the lists",
        ),
        ("security: {privileged: true, seccomp: default, user: 0}", ""),
        (
            "security: {privileged: true, addCapabilities: [KILL]}",
            "addCapabilities of a privileged container; none: it has every capability",
        ),
        ("security: {privileged: true, dropCapabilities: [ALL]}", "dropCapabilities of a privileged container"),
        (
            "security: {privileged: true, seccomp: unconfined}",
            "security.seccomp: seccomp of a privileged container; default: it may make every system call anyway",
        ),
        ("health: {exec: [/check, '']}", ""),
        ("health: {http: {port: 80}}", ""),
        ("health: {tcp: {port: 80}, intervalS: 1, timeoutS: 60, graceS: 0}", ""),
        ("health: {}", "containers[0].health: nothing that is checked; one of exec, tcp, http"),
        ("health: {exec: []}", "health.exec: found an empty list; at least 1 entry"),
        ("health: {tcp: {port: 80}, http: {port: 80}}", "health.http: both tcp and http; one of them"),
        ("health: {http: {port: 80, path: healthz}}", "http.path: found healthz: it is no path of an address"),
        ("health: {http: {port: 80, path: '/a b'}}", "http.path: found the text '/a b'"),
        (
            "mounts: [{volume: v, path: /a/b}, {volume: v, path: /a}, {volume: v, path: /dev/shm/}], "
            "secrets: [{secret: s, path: /a/b/c}]",
            "",
        ),
        ("mounts: [{volume: w, path: /a}]", "mounts[0].volume: found w, which is no volume of the workload; v or w2"),
        ("secrets: [{secret: t, path: /a}]", "secrets[0].secret: found t, which is no secret of the workload; s"),
        ("mounts: [{volume: v, path: /a}, {volume: v, path: /a/}]", "mounts[1].path: the path /a again"),
        (
            "mounts: [{volume: v, path: /a}], secrets: [{secret: s, path: /a}]",
            "containers[0].secrets[0].path: the path /a again",
        ),
        ("mounts: [{volume: v, path: /}]", "mounts[0].path: found /: it is the whole file system of the container"),
        ("mounts: [{volume: v, path: /a/../b}]", "found /a/../b: a part that is '..'"),
        ("mounts: [{volume: v, path: /a//b}]", "found /a//b: two '/' together"),
        ("mounts: [{volume: v, path: /proc}]", "mounts[0].path: found /proc, where the kernel's files are; others"),
        ("mounts: [{volume: v, path: /dev/hugepages/1}]", ""),
        ("mounts: [{volume: v, path: /dev/shmem}]", "found /dev/shmem, where the kernel's files are"),
        ("mounts: [{volume: v, path: /process}]", ""),
        ("secrets: [{secret: s, path: /sys/key}]", "secrets[0].path: found /sys/key, where the kernel's files are"),
        ("secrets: [{secret: s, path: /key, mode: 0440, owner: 0}]", ""),
        ("secrets: [{secret: s, path: /key, owner: nobody}]", "owner: found nobody: it is no number, or two with ':'"),
        ("secrets: [{secret: s, path: /key, owner: '0:4294967295'}]", "the last number is 4294967294; UID or UID:GID"),
        ("secrets: [{secret: s, path: /key, mode: 0o400}]", "mode: found 0o400: it is no mode; 3 or 4 octal digits"),
        ("secrets: [{secret: s, path: /key, mode: 4755}]", "setuid, setgid and sticky bits have no place here"),
    ],
)
def test_container(fields: str, expected: str) -> None:
    image = "" if "image:" in fields else "image: nginx, "
    check(
        "WorkloadConfig",
        f"name: web\nvolumes: [{{name: v}}, {{name: w2}}]\nsecrets: [{{name: s, value: x}}]\n"
        f"containers: [{{name: c, {image}{fields}}}]",
        expected,
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("restart: on-failure\nstartOrder: 0\nstopGraceS: 0\nruntime: crun", ""),
        ("restart: onfailure", "restart: found onfailure; always or never or on-failure"),
        ("volumes: [{name: a}, {name: a}]", "WorkloadConfig web: $.volumes[1].name: the volume a again"),
        ("secrets: [{name: a, value: x}, {name: a, value: y}]", "secrets[1].name: the secret a again"),
        ("secrets: [{name: a_b, value: x}]", "secrets[0].name: found a_b: it is no such name; 1 to 63 lower-case"),
        ("secrets: [{name: a, value: ''}]", "secrets[0].value: a secret that is not valid; 1 to 65536 characters"),
        ('secrets: [{name: a, value: "-----BEGIN\\n\\tx\\n"}]', ""),
        ("volumes: [{name: a, medium: memory, size: 64MiB}]", ""),
        (
            "volumes: [{name: a, medium: memory}]",
            "volumes[0].size: size is missing for a volume in memory; what it may take of the node's memory",
        ),
        (
            "volumes: [{name: a, medium: memory, size: 1MiB, disk: fast}]",
            "volumes[0].disk: found fast for a volume in memory; only with the medium data",
        ),
        (
            "volumes: [{name: a, disk: fast}]",
            "WorkloadConfig web: $.volumes[0].disk: found fast, which is no VolumeConfig; "
            "none: the configuration has no VolumeConfig",
        ),
        ("network: {mode: host}", ""),
        ("network: {mode: host, ports: [{container: 80}]}", "network.ports: ports in the mode host; only in bridge"),
        ("network: {ports: [{container: 80}, {container: 80, host: 81}, {container: 80, protocol: udp}]}", ""),
        (
            "network: {ports: [{container: 80, address: 192.0.2.1}, {container: 80, address: '2001:db8::1'}]}",
            "",
        ),
        (
            "network: {ports: [{container: 80}, {container: 8080, host: 80, address: 192.0.2.1}]}",
            "network.ports[1].host: found the node's port 80/tcp on 192.0.2.1, which ports[0] takes; "
            "each port of an address once",
        ),
        (
            "network: {ports: [{container: 8080, host: 80, address: 192.0.2.1}, {container: 80}]}",
            "network.ports[1].container: found the node's port 80/tcp, which ports[0] takes",
        ),
        (
            "network: {ports: [{container: 80, host: 50000, address: 192.0.2.1}]}",
            "network.ports[0].host: found 50000, the API's port; others",
        ),
        ("network: {ports: [{container: 50000}]}", "network.ports[0].container: found 50000, the API's port"),
        ("network: {ports: [{container: 50000, protocol: udp}, {container: 50000, host: 1}]}", ""),
    ],
)
def test_workload(fields: str, expected: str) -> None:
    check("WorkloadConfig", f"name: web\ncontainers: [{{name: c, image: nginx}}]\n{fields}", expected)


def test_containers_of_a_workload_differ() -> None:
    two = "containers: [{name: c, image: a}, {name: c, image: b}]"
    check("WorkloadConfig", f"name: web\n{two}", "$.containers[1].name: the container c again; each once")
    check("WorkloadConfig", "name: web\ncontainers: []", "$.containers: found an empty list; at least 1 entry")
    mount = "containers: [{name: c, image: a, mounts: [{volume: v, path: /a}]}]"
    check(
        "WorkloadConfig", f"name: web\n{mount}", "which is no volume of the workload; none: the workload has no volumes"
    )


def volume(name: str, disk: str) -> str:
    return f"apiVersion: basalt.dev/v1alpha1\nkind: VolumeConfig\nname: {name}\ndisk: {{{disk}}}\n"


def workload(name: str, fields: str) -> str:
    head = f"apiVersion: basalt.dev/v1alpha1\nkind: WorkloadConfig\nname: {name}\n"
    return f"{head}containers: [{{name: c, image: nginx}}]\n{fields}\n"


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
        ([workload("w", "volumes: [{name: v, disk: a}]"), volume("a", "serial: x")], []),
        (
            [workload("w", "volumes: [{name: v, disk: c}]"), volume("b", "serial: y"), volume("a", "serial: x")],
            [
                "node.yaml:5:27: WorkloadConfig w: $.volumes[0].disk: found c, which is no VolumeConfig; allowed: a or b",
            ],
        ),
        (
            [
                workload("web", "network: {ports: [{container: 80}]}"),
                workload("dns", "network: {ports: [{container: 80, protocol: udp}, {container: 53, host: 81}]}"),
            ],
            [],
        ),
        (
            [
                workload("web", "network: {ports: [{container: 80, address: 192.0.2.1}, {container: 443}]}"),
                workload(
                    "proxy",
                    "network:\n  ports:\n  - {container: 8080, host: 80}\n"
                    "  - {container: 443, address: 192.0.2.1}\n  - container: 80\n    host: 82",
                ),
            ],
            [
                "node.yaml:5:31: WorkloadConfig web: $.network.ports[0].container: found the node's port 80/tcp on 192.0.2.1, "
                "which WorkloadConfig proxy takes; allowed: each port of an address once",
                "node.yaml:5:68: WorkloadConfig web: $.network.ports[1].container: found the node's port 443/tcp, "
                "which WorkloadConfig proxy takes; allowed: each port of an address once",
            ],
        ),
        (
            [workload("a", ""), workload("a", "")],
            [
                "node.yaml:8:7: WorkloadConfig a: $.kind: a second WorkloadConfig a; allowed: one; the first stands in line 2"
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


@pytest.mark.parametrize(
    "text",
    [
        "secrets: hunter2",
        "secrets: [hunter2]",
        "secrets: {key: hunter2}",
        "secrets: [{name: key, value: *hunter2}]",
        "secrets: [{name: key, value: &hunter2 x}]",
        "secrets: [{name: key, value: !hunter2 x}]",
        "secrets: [{name: key, value=hunter2}]",
        "secrets: [{name: key, value: [hunter2]}]",
        'secrets: [{name: key, value: "hunter2\\0"}]',
        "secrets: [{name: key, value: '[redacted hunter2]'}]",
        "secrets:\n- name: key\n  value: |\n    [redacted hunter2]\n",
        "secrets:\n- name: key\n  value: |\n    first\n  hunter2\n",
        "secrets:\n- name: key\n  value: |\n    first\n  A=hunter2: x\n",
        "secrets:\n- name: key\n  value: |\n    first\nA=hunter2: x\n",
        "secrets: [{name: key, value: hunter2}, {name: key, value: hunter2}]",
    ],
)
def test_secrets_of_a_workload_are_not_repeated(text: str) -> None:
    found = problems("WorkloadConfig", f"name: web\ncontainers: [{{name: c, image: nginx}}]\n{text}")
    assert found
    assert "hunter2" not in "".join(found)


def test_examples_break_no_rule() -> None:
    assert config.parse("---\n".join(EXAMPLES.values()).encode(), "examples").documents
