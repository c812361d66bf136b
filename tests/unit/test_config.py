"""Configuration documents: what is read, what is refused and how that is said, and the canonical form."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Annotated

import msgspec
import pytest

from basalt import config
from basalt.config import tree
from basalt.config.documents import KINDS, Configuration, LinkMatch, MachineConfig
from basalt.config.redaction import redact_struct
from basalt.config.spelling import cpu_amount
from basalt.config.values import REDACTED, Secret, cpu_millis

HEAD = "apiVersion: basalt.dev/v1alpha1\n"
MACHINE = f"{HEAD}kind: MachineConfig\nhostname: node-1\n"
FULL = f"""\
---
{MACHINE}labels:
  example.org/rack: r12
---
{HEAD}kind: NetworkConfig
links:
- name: eth0
  mtu: 9000
  addresses:
  - 192.0.2.10/24
  - 2001:db8::1/64
  routes:
  - to: default
    via: 192.0.2.1
  - to: default
    via: fe80::1
    metric: 10
- match:
    mac: '52:54:00:12:34:56'
  dhcp4: true
dns:
  servers:
  - 192.0.2.53
  search:
  - example.org
---
{HEAD}kind: TimeConfig
servers:
- address: time.example.org
  nts: true
"""


def parse(text: str) -> Configuration:
    return config.parse(text.encode(), "node.yaml")


def problems(text: str | bytes) -> list[str]:
    """The problems of *text*, each "line:column path: words"."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text.encode() if isinstance(text, str) else text, "node.yaml")
    return [str(problem).removeprefix("node.yaml:") for problem in caught.value.problems]


def link(fields: str) -> str:
    return f"{HEAD}kind: NetworkConfig\nlinks:\n- {{name: eth0, {fields}}}\n"


def test_canonical_form_is_stable_and_means_the_same() -> None:
    configuration = parse(FULL)
    assert config.render(configuration).decode() == FULL
    assert parse(config.render(configuration).decode()) == configuration


def test_decoded_documents_satisfy_msgspec_as_well() -> None:
    for document in parse(FULL).documents:
        assert msgspec.convert(msgspec.to_builtins(document), type(document), strict=True) == document


@pytest.mark.parametrize("text", ["no", "on", "null1", "1e3", "0x10", "12", "1-2"])
def test_host_name_stays_text_whatever_yaml_would_make_of_it(text: str) -> None:
    machine = parse(f"{HEAD}kind: MachineConfig\nhostname: {text}\n").machine
    assert machine is not None
    assert machine.hostname == text


def test_one_spelling_for_each_value() -> None:
    spelled = parse(
        f"{HEAD}kind: NetworkConfig\nlinks:\n- match: {{mac: 52-54-00-AB-CD-EF}}\n"
        "  addresses: ['2001:DB8:0::1/64']\ndns: {search: [Example.ORG.]}\n"
    ).network
    assert spelled is not None
    assert spelled.links[0].match == LinkMatch(mac="52:54:00:ab:cd:ef")
    assert spelled.links[0].addresses == ("2001:db8::1/64",)
    assert spelled.dns.search == ("example.org",)


def test_one_spelling_for_the_values_of_a_workload() -> None:
    (workload,) = parse(
        f"{HEAD}kind: WorkloadConfig\nname: web\nvolumes: [{{name: v, size: 1 GiB, owner: 007:0}}]\n"
        "secrets: [{name: s, value: 1}]\ncontainers:\n- name: c\n  image: nginx\n  workingDir: /srv/\n"
        "  args: [0400, 1.50, yes]\n  env: {A: 0x10}\n  mounts: [{volume: v, path: /data/}]\n"
        "  secrets: [{secret: s, path: /key, mode: 440}]\n"
        "  resources: {cpu: 01.50, hugepages: [{page: 2048KiB, limit: 64MiB}]}\n"
        "  security: {user: 00:nogroup, addCapabilities: [CAP_NET_ADMIN, sys_time]}\n"
    ).workloads
    (container,) = workload.containers
    assert (workload.volumes[0].size, workload.volumes[0].owner, workload.secrets[0].value) == ("1GiB", "7:0", "1")
    assert (container.image, container.working_dir) == ("docker.io/library/nginx:latest", "/srv")
    assert (container.args, container.env) == (("0400", "1.50", "yes"), {"A": "0x10"})
    assert (container.mounts[0].path, container.secrets[0].mode) == ("/data", "0440")
    assert (container.resources.cpu, container.resources.hugepages[0].page) == ("1.5", "2MiB")
    assert (container.security.user, container.security.add_capabilities) == ("0:nogroup", ("NET_ADMIN", "SYS_TIME"))


@pytest.mark.parametrize(
    ("text", "millis", "spelled"),
    [("2", 2000, "2"), ("0.25", 250, "0.25"), ("010.0", 10_000, "10"), ("0.010", 10, "0.01")],
)
def test_processors(text: str, millis: int, spelled: str) -> None:
    assert (cpu_millis(text), cpu_amount(text)) == (millis, spelled)


def test_documents_may_come_in_any_order_with_empty_ones_between() -> None:
    reordered = "---\n" + "---\n---\n".join(reversed(FULL.split("---\n")))
    assert parse(reordered) == parse(FULL)


def test_every_problem_of_every_document_is_told_at_once() -> None:
    text = (
        f"{HEAD}kind: MachineConfg\nhostname: a\n---\n{HEAD}kind: MachineConfig\nhost_name: a.b\nlabels: [1]\n---\n"
        f"{HEAD}kind: NetworkConfig\nlinks:\n- dhcp4: yes\n  mtuu: 1500\n  dhpc6: true\n- name: eth1\n  addresses: [10.0.0.1]\n"
    )
    assert problems(text) == [
        f"2:7: $.kind: found MachineConfg; did you mean 'MachineConfig'?; allowed: {' or '.join(KINDS)}",
        "5:1: MachineConfig: $.hostname: hostname is missing; "
        "allowed: 1 to 63 letters, digits and '-', neither first nor last a '-' (RFC 1123)",
        "7:1: MachineConfig: $.host_name: unknown field 'host_name'; did you mean 'hostname'?; "
        "allowed: apiVersion, hostname, labels, topology, sysctls, modules, watchdog, logging",
        "8:9: MachineConfig: $.labels: found a list; allowed: a mapping, each name a name of 1 to 63 letters, digits, '-', '_', '.', "
        "alone or after a domain and '/'",
        "13:10: NetworkConfig: $.links[0].dhcp4: found yes; allowed: true or false",
        "14:3: NetworkConfig: $.links[0].mtuu: unknown field 'mtuu'; did you mean 'mtu'?; "
        "allowed: name, match, vlan, bond, bridge, wireguard, up, mtu, dhcp4, dhcp6, slaac, addresses, routes",
        "15:3: NetworkConfig: $.links[0].dhpc6: unknown field 'dhpc6'; did you mean 'dhcp6'?; "
        "allowed: name, match, vlan, bond, bridge, wireguard, up, mtu, dhcp4, dhcp6, slaac, addresses, routes",
        "17:15: NetworkConfig: $.links[1].addresses[0]: found 10.0.0.1: its prefix length is missing (for example 10.0.0.1/24); "
        "allowed: an IPv4 or IPv6 address with its prefix length",
    ]


def test_problems_are_fields_for_a_program() -> None:
    with pytest.raises(config.ConfigError) as caught:
        parse(link("mtu: 1"))
    assert caught.value.as_dict()["problems"] == [
        {
            "source": "node.yaml",
            "position": {"line": 4, "column": 21},
            "path": "NetworkConfig: $.links[0].mtu",
            "found": "found 1",
            "allowed": "a whole number from 68 to 65536",
            "nearest": "",
        }
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("mtu: 010", "mtu: found 010;"),
        ("mtu: 1_500", "mtu: found 1_500;"),
        ("mtu: '1500'", "mtu: found the text '1500';"),
        ("mtu: 65537", "a whole number from 68 to 65536"),
        ("mtu: ", "mtu: found nothing;"),
        ("up: 'true'", "up: found the text 'true'; allowed: true or false"),
        ("dhcp4: [true]", "dhcp4: found a list;"),
        ("addresses: 10.0.0.1/8", "addresses: found 10.0.0.1/8; allowed: a list"),
        ("addresses: [10.0.0.0/8]", "the address of the network 10.0.0.0/8 itself"),
        ("addresses: [10.255.255.255/8]", "the broadcast address of 10.0.0.0/8"),
        ("addresses: [10.0.0.1/33]", "10.0.0.1/33"),
        ("addresses: [10.0.0.1/255.0.0.0]", "its prefix length is no number"),
        ("addresses: [224.0.0.1/8]", "the address of no single machine"),
        ("addresses: ['fe80::1%eth0/64']", "a zone (%) has no place here"),
        ("addresses: [10.0.0.1/8, 10.0.0.1/8]", "addresses[1]: the address 10.0.0.1/8 again"),
        ("match: {mac: '52:54:00:12:34:56'}", "match: both name and match"),
        ("match: {mac: '53:54:00:12:34:56'}", "it is a group address"),
        (
            "mtu: 1000, addresses: ['2001:db8::1/64']",
            "found 1000 on a link with IPv6; allowed: at least 1280",
        ),
        ("routes: [{to: default}]", "routes[0]: a default route without a gateway"),
        ("routes: [{to: 10.1.2.3/8}]", "the network is 10.0.0.0/8"),
        ("routes: [{to: default, via: 10.0.0.1}]", "out of the link's reach; allowed: an address in none"),
        ("addresses: [10.0.0.2/8], routes: [{to: default, via: 11.0.0.1}]", "allowed: an address in 10.0.0.0/8"),
        ("addresses: [10.0.0.2/8], routes: [{to: default, via: 10.0.0.2}]", "the link's own address"),
        ("addresses: [10.0.0.2/8], routes: [{to: '2001:db8::/32', via: 10.0.0.1}]", "for a route to IPv6"),
        (
            "dhcp4: true, routes: [{to: default, via: 10.0.0.1}, {to: 0.0.0.0/0, via: 10.0.0.9}]",
            "routes[1]: a route to 0.0.0.0/0 with the same metric again",
        ),
        ("routes: [{to: 10.0.0.0/8, metric: -1}]", "a whole number from 0 to 4294967295"),
    ],
)
def test_link_is_refused(fields: str, expected: str) -> None:
    (problem,) = problems(link(fields))
    assert expected in problem


@pytest.mark.parametrize(
    "fields",
    [
        "addresses: [10.0.0.2/31, 10.9.0.0/32]",
        "dhcp4: true, routes: [{to: default, via: 10.0.0.1}]",
        "addresses: ['2001:db8::2/64'], routes: [{to: default, via: '2001:db8::1'}]",
        "routes: [{to: default, via: fe80::1}]",
        "addresses: [192.0.2.7/32], routes: [{to: 203.0.113.1/32}, {to: default, via: 203.0.113.1}]",
        "dhcp4: true, routes: [{to: default, via: 10.0.0.1}, {to: default, via: 10.0.0.1, metric: 9}]",
    ],
)
def test_link_is_accepted(fields: str) -> None:
    assert parse(link(fields)).network is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: $: no document; allowed: at least one of"),
        ("---\n---\n", "no document"),
        ("- a\n", "1:1: $: found a list; allowed: a mapping with apiVersion, kind and fields"),
        (f"{HEAD}kind: [a]\n", "2:7: $.kind: found a list"),
        ("kind: MachineConfig\nhostname: a\n", "apiVersion is missing"),
        ("apiversion: basalt.dev/v1alpha1\nkind: TimeConfig\n", "missing (is 'apiversion' meant to be it?)"),
        ("apiVersion: basalt.dev/v1\nkind: TimeConfig\n", "did you mean 'basalt.dev/v1alpha1'?"),
        (
            f"{MACHINE}---\n{MACHINE}",
            "6:7: MachineConfig: $.kind: a second MachineConfig; allowed: one; the first stands in line 2",
        ),
        (
            f"{MACHINE}hostname: b\n",
            "4:1: MachineConfig: $.hostname: 'hostname' again; allowed: each name once; it stands in line 3",
        ),
        (f"{MACHINE}\tlabels: a\n", "4:1: $: a tab; allowed: spaces"),
        (f"{MACHINE}labels: @a\n", "4:9: $: '@' at the beginning of a value; allowed: the value in quotes"),
        (f"{MACHINE}labels: {{a: b\n\n", "which began in line 4"),
        (f"{MACHINE}labels: &a {{}}\n", "4:9: MachineConfig: $.labels: an anchor"),
        (f"{MACHINE}labels: {{a: *b}}\n", "4:13: MachineConfig: $.labels.a: an alias"),
        (f"{MACHINE}labels: !!python/object:os.system {{}}\n", "4:9: MachineConfig: $.labels: a tag"),
        (f"{MACHINE}labels: {{? [a] : b}}\n", "a list or mapping as a name"),
        (f"{MACHINE}labels: {{a: \x07}}\n", "4:13: $: the character U+0007"),
        (
            f"{MACHINE}labels: {{-a: b}}\n",
            "4:10: MachineConfig: $.labels['-a']: found the text '-a': it is no name of a label",
        ),
        (f"{MACHINE}labels: {{a: ''}}\nx: {'y' * 99}", "unknown field 'x'"),
        (f"{HEAD}kind: MachineConfig\nhostname: {'y' * 99}\n", f"found {'y' * 57}...: it has 99 characters"),
        (f"{HEAD}kind: TimeConfig\nservers: [{{address: 1.2.3}}]\n", "allowed: an IP address or a domain name"),
        (
            f"{HEAD}kind: TimeConfig\nservers: [{{address: a}}, {{address: A}}]\n",
            "$.servers[1].address: the server a again",
        ),
        (f"{HEAD}kind: NetworkConfig\ndns: {{servers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}}\n", "at most 3"),
        (f"{HEAD}kind: NetworkConfig\nlinks: [{{name: a}}, {{name: a}}]\n", "$.links[1].name: the link a again"),
        (f"{HEAD}kind: NetworkConfig\nlinks: [{{up: true}}]\n", "$.links[0]: neither name nor match"),
    ],
)
def test_text_is_refused(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert expected in problem


def test_bytes_that_are_no_text_are_refused_where_they_stand() -> None:
    assert problems(b"\xef\xbb\xbfa: 1\n\n \xff") == ["3:2: $: byte 0xff, which is not UTF-8; allowed: UTF-8"]


def test_hostile_sizes_and_depths_are_refused_early() -> None:
    assert "allowed: at most 1048576" in problems(b"#" * (tree.MAX_SIZE_BYTES + 1))[0]
    assert "nested deeper than 32 levels" in problems("[" * 100_000)[0]


def test_long_list_of_problems_is_cut() -> None:
    with pytest.raises(config.ConfigError, match="and 150 more problems") as caught:
        parse(MACHINE + "".join(f"field{number}: 1\n" for number in range(200)))
    assert len(caught.value.problems) == 200


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_both_yaml_parsers_survive_broken_text(loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random damage to a good file: an answer or a ConfigError with places inside the file, nothing else."""
    yaml = pytest.importorskip("yaml")
    if not hasattr(yaml, loader):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(tree, "_Loader", getattr(yaml, loader))
    chance = random.Random(7)
    for _ in range(300):
        text = bytearray(FULL.encode())
        for _ in range(chance.randint(1, 6)):
            where = chance.randrange(len(text))
            text[where : where + chance.randint(0, 3)] = chance.choice(
                [b"\t", b"\n", b": ", b"- ", b"[", b"}", b"'", b"&a ", b"*a", b"!", b"\x00", b"\xff", b"|", b"%"]
            )
        lines = text.count(b"\n") + 2
        try:
            config.parse(bytes(text), "node.yaml")
        except config.ConfigError as error:
            assert error.problems
            assert all(1 <= problem.position.line <= lines for problem in error.problems)


def test_node_pays_for_no_import_that_it_does_not_need() -> None:
    code = (
        "import sys, basalt.config, basalt.pki, basalt.roles\n"
        "sys.exit(', '.join({'cryptography', 'grpc', 'google.protobuf', 'rich', 'difflib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_difference_is_empty_for_another_spelling_of_the_same() -> None:
    assert config.diff(parse(MACHINE), parse(MACHINE.replace("node-1", "'NODE-1' # comment"))) == ""


def test_difference_shows_the_change() -> None:
    difference = config.diff(parse(MACHINE), parse(MACHINE.replace("node-1", "node-2")), names=("1", "2"))
    assert "-hostname: node-1\n+hostname: node-2\n" in difference
    assert difference.startswith("--- 1\n+++ 2\n")


class _Peer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    key: Secret
    spare: Secret | None = None


class _Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    peers: tuple[_Peer, ...]
    keys: dict[str, Secret] = {}
    passwords: Annotated[tuple[Secret, ...], msgspec.Meta(description="words")] = ()


def test_secrets_are_found_by_their_type_wherever_they_are() -> None:
    tunnel = _Tunnel(
        peers=(_Peer(name="a", key="k1", spare="k2"), _Peer(name="b", key="k3")), keys={"c": "k4"}, passwords=("k5",)
    )
    masked = redact_struct(tunnel, lambda _: REDACTED)
    assert masked == _Tunnel(
        peers=(_Peer(name="a", key=REDACTED, spare=REDACTED), _Peer(name="b", key=REDACTED)),
        keys={"c": REDACTED},
        passwords=(REDACTED,),
    )


def test_certificate_stands_in_a_block() -> None:
    pem = "-----BEGIN CERTIFICATE-----\n" + "A" * 64 + "\n" + "B" * 36 + "\n-----END CERTIFICATE-----\n"
    block = "".join(f"  {line}\n" for line in pem.splitlines())
    text = f"---\n{HEAD}kind: AccessConfig\nclientAuthorities:\n- |\n{block}"
    assert config.render(parse(text)).decode() == text
    assert f"+  {'B' * 36}\n" in config.diff(Configuration(), parse(text))


REGISTRY = f"""\
---
{HEAD}kind: RegistryConfig
auth:
- host: registry.example.org
  username: puller
  password: correct horse
"""


def test_redacted_copy_for_reading_is_not_applied() -> None:
    copy = config.render(config.redact(parse(REGISTRY)))
    assert b"password: '[redacted]'\n" in copy
    with pytest.raises(config.ConfigError, match="a redacted secret; allowed: the secret itself"):
        config.parse(copy, "node.yaml")


def test_redacted_copy_with_tags_is_read_with_its_secrets() -> None:
    configuration = parse(REGISTRY)
    copy = config.render(config.redact(configuration, b"key"))
    assert b"correct" not in copy
    assert config.parse(copy, "node.yaml", secrets=config.secrets_of(configuration, b"key")) == configuration


WORKLOAD = f"""\
---
{HEAD}kind: WorkloadConfig
name: web
containers:
- name: app
  image: docker.io/library/nginx:1.27
  args:
  - ''
  - |
    two
    lines
  env:
    TOKEN_FILE: /run/secrets/token
    WORKERS: '4'
  secrets:
  - secret: key
    path: /run/secrets/key
secrets:
- name: key
  value: |
    -----BEGIN PRIVATE KEY-----
    hunter2
    -----END PRIVATE KEY-----
"""


def test_secret_of_a_workload_may_have_lines_and_is_not_shown() -> None:
    configuration = parse(WORKLOAD)
    assert config.render(configuration).decode() == WORKLOAD
    read = config.render(config.redact(configuration)).decode()
    assert read.endswith("secrets:\n- name: key\n  value: '[redacted]'\n")
    assert "WORKERS: '4'" in read, "the environment is no secret"
    copy = config.render(config.redact(configuration, b"key"))
    assert config.parse(copy, "node.yaml", secrets=config.secrets_of(configuration, b"key")) == configuration
    changed = parse(WORKLOAD.replace("hunter2", "hunter3").replace("WORKERS: '4'", "WORKERS: '5'"))
    difference = config.diff(configuration, changed)
    assert "hunter" not in difference and "BEGIN" not in difference
    assert "-    WORKERS: '4'\n+    WORKERS: '5'\n" in difference
    assert difference.count("value: '[redacted ") == 2, "that it differs is shown"


def test_placeholder_in_a_block_is_no_secret() -> None:
    block = WORKLOAD.partition("    -----")[0] + "    [redacted 1f09c24a]\n"
    assert "$.secrets[0].value: a secret that is not valid" in problems(block)[0]


def test_secret_of_another_tag_is_not_put_in() -> None:
    configuration = parse(REGISTRY)
    copy = config.render(config.redact(configuration, b"key"))
    with pytest.raises(
        config.ConfigError, match=r"7:13: .*auth\[0\].password: a redacted secret, \[redacted [0-9a-f]{8}\]"
    ):
        config.parse(copy, "node.yaml", secrets=config.secrets_of(configuration, b"another key"))


def test_placeholders_are_accepted_where_no_secrets_are_known() -> None:
    copy = config.redact(parse(REGISTRY), b"key")
    assert config.parse(config.render(copy), "node.yaml", accept_placeholders=True) == copy


def test_redacting_documents_without_secrets_changes_nothing() -> None:
    assert config.redact(parse(FULL)) == parse(FULL)


def test_schema_describes_every_kind_and_field() -> None:
    schema = config.json_schema()
    assert [reference["$ref"] for reference in schema["oneOf"]] == [f"#/$defs/{kind}" for kind in KINDS]
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False
        for field, described in definition["properties"].items():
            assert field == "kind" or described["description"], f"{name}.{field} has no description"
            assert "null" not in str(described.get("type"))
    assert schema["$defs"]["MachineConfig"]["required"] == ["apiVersion", "kind", "hostname"]


def test_configuration_lists_its_documents_in_order() -> None:
    assert Configuration().documents == ()
    reordered = "---\n".join(reversed(FULL.split("---\n")))
    kinds = [type(document).__name__ for document in parse(reordered).documents]
    assert kinds == ["MachineConfig", "NetworkConfig", "TimeConfig"]
    assert Configuration(machine=MachineConfig(hostname="a")).documents == (MachineConfig(hostname="a"),)
