"""Hypothesis strategies for configurations, made along the documents' types: a new field is generated without a line here, a new
kind of text needs one."""

from __future__ import annotations

import base64
import string
from typing import Any, get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import reject, settings
from hypothesis import strategies as st
from msgspec import NODEFAULT, structs

from basalt.config import documents as kinds
from basalt.config import values
from basalt.config.documents import Configuration
from basalt.config.rules import CONFIGURATION_RULES, RULES
from basalt.config.tree import Path
from basalt.config.types import Choice, List, Number, Part, Shape, Table, Text, Truth, fields_of
from basalt.config.values import RULE, TextRule

# The same examples on every run: a failure in CI is a failure here.
settings.register_profile("basalt", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("basalt")

Strategy = st.SearchStrategy[Any]

_WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=9)
_LOWER = st.text(string.ascii_lowercase, min_size=1, max_size=9)
_V4 = st.tuples(st.integers(1, 223), st.integers(0, 255), st.integers(0, 255), st.integers(1, 254)).map(
    lambda parts: ".".join(map(str, parts))
)
_V6 = st.integers(1, 2**60).map(lambda number: f"2001:db8::{number & 0xFFFF:x}:{number >> 16 & 0xFFFF:x}")
_ADDRESS = _V4 | _V6
_HOST = _LOWER | _ADDRESS
_PORT = st.integers(1, 65535)
_NETWORK = st.integers(0, 223).map(lambda first: f"{first}.0.0.0/8") | st.integers(1, 0xFFFF).map(
    lambda part: f"2001:db8:{part:x}::/48"
)
_KEY = st.binary(min_size=32, max_size=32).map(lambda key: base64.b64encode(key).decode())


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_HOST_PORT = st.builds(lambda host, port: f"{bracketed(host)}:{port}", _HOST, _PORT)
# Every secret has a digit and is long enough to be found in a text that must not have it.
_PRINTABLE = st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["C", "Zs", "Zl", "Zp"])
SECRET = st.text(_PRINTABLE | st.just(" "), max_size=40).map(lambda text: f"s3cr3t-{text}")
# Any text that a program can be given; in UTF-8 there are no surrogates.
_LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_SECRET_LINES = st.builds(
    lambda lines, between, end: between.join(lines) + end,
    st.lists(SECRET, min_size=1, max_size=3),
    st.sampled_from(["\n", "\n\n", "\n  ", "\r\n", "\n\t"]),
    st.sampled_from(["", "\n", "\n\n", " \n"]),
)
_PATH = st.lists(_WORD, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
_ID = st.integers(0, 2**32 - 2).map(str)
_USER = _ID | _LOWER
_IMAGE = (
    _LOWER
    | st.builds("{}/{}:{}".format, _HOST_PORT, _LOWER, _WORD)
    | st.builds("{}@sha256:{}".format, _LOWER, st.binary(min_size=32, max_size=32).map(bytes.hex))
)
_PEM = st.binary(min_size=1, max_size=200).map(
    lambda der: f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----"
)


_PATTERN = st.just("*") | _HOST_PORT | st.builds("{}/{}/{}".format, _HOST_PORT, _LOWER, _LOWER | st.just("*"))
# Another key for each number, all of them on the curve.
_PUBLIC_KEY = st.integers(1, 2**64).map(
    lambda secret: (
        ec.derive_private_key(secret, ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
)


def _rule(alias: Any) -> TextRule:
    return next(meta.extra[RULE] for meta in get_args(alias)[1:] if meta.extra and RULE in meta.extra)


_TEXTS: dict[int, Strategy] = {
    id(_rule(alias)): strategy
    for alias, strategy in (
        (values.Hostname, _WORD),
        (values.Domain, st.lists(_WORD, min_size=1, max_size=3).map(".".join)),
        (values.Host, _HOST),
        (values.InterfaceName, _LOWER.filter(lambda name: name not in ("all", "default", "lo"))),
        (values.MacAddress, st.binary(min_size=5, max_size=5).map(lambda rest: "52:" + rest.hex(":"))),
        (values.InterfaceAddress, _V4.map(lambda text: f"{text}/32") | _V6.map(lambda text: f"{text}/64")),
        (values.IpAddress, _ADDRESS),
        (values.Destination, _NETWORK),
        (values.LabelKey, _WORD | st.builds("{}/{}".format, _LOWER, _WORD)),
        (values.LabelValue, _WORD | st.just("")),
        (values.CertificatePem, _PEM),
        (values.Serial, st.integers(1, 2**159).map("{:x}".format)),
        (values.Prefix, _NETWORK | _ADDRESS),
        (values.WireguardKey, _KEY),
        (values.WireguardSecret, _KEY),
        (values.Secret, SECRET),
        (values.SecretValue, SECRET | st.just("")),
        (values.SecretText, _SECRET_LINES),
        (values.SocketAddress, _HOST_PORT),
        (values.PortRange, st.builds(lambda a, b: f"{min(a, b)}-{max(a, b)}", _PORT, _PORT)),
        (values.LogEndpoint, st.builds("{}://{}".format, st.sampled_from(["udp", "tcp"]), _HOST_PORT)),
        (values.HttpUrl, st.builds("http://{}/{}".format, _HOST_PORT, _WORD)),
        (values.RegistryHost, _HOST.map(bracketed) | _HOST_PORT),
        (values.Registry, st.just("*") | _HOST_PORT),
        (values.Size, st.builds("{} {}".format, st.integers(64, 999), st.sampled_from(["MiB", "GB", "TiB"]))),
        (values.SysctlName, st.builds("{}.{}/5.{}".format, _LOWER, _LOWER, _LOWER)),
        (values.SysctlValue, st.text(string.printable[:95], max_size=9).map(lambda text: f"1{text}")),
        (values.ModuleName, _WORD),
        (values.ParameterName, _WORD),
        (values.ParameterValue, _WORD),
        (values.ServiceName, _LOWER),
        (values.VolumeName, _LOWER),
        (values.RuleName, _WORD),
        (values.EnvironmentName, _LOWER.map(lambda name: f"X_{name}")),
        (values.Words, st.text(_PRINTABLE, min_size=1, max_size=20)),
        (values.UserName, st.text(_PRINTABLE, min_size=1, max_size=20)),
        (values.WorkloadName, _WORD.map(str.lower)),
        (values.ImageReference, _IMAGE),
        (values.ImagePattern, _PATTERN),
        (values.PublicKeyPem, _PUBLIC_KEY),
        (values.Line, _LINE),
        (values.Toml, st.builds("[metrics]\n{} = {}\n".format, _LOWER, st.integers(0, 9))),
        (values.ContainerPath, _PATH),
        (values.ContainerDirectory, _PATH | st.just("/")),
        (values.UrlPath, _PATH),
        (values.CpuAmount, st.integers(10, 1024_000).map(lambda millis: f"{millis / 1000:.3f}")),
        (values.HugepageSize, st.sampled_from(["2 MiB", "1GiB", "1024MiB"])),
        (values.FileMode, st.integers(0, 0o777).map("{:03o}".format)),
        (values.UserAndGroup, _USER | st.builds("{}:{}".format, _USER, _USER)),
        (values.Owner, _ID | st.builds("{}:{}".format, _ID, _ID)),
        (values.CapabilityName, st.sampled_from(["CAP_NET_ADMIN", "cap_bpf", "chown", "SYS_TIME", "KILL", "ALL"])),
        (values.CdiName, st.builds("{}.com/class{}={}:{}".format, _LOWER, _WORD, _WORD, _WORD)),
    )
}


def value(shape: Shape) -> Strategy:
    """Values of that shape, each in its one spelling."""
    match shape:
        case Text():
            assert shape.rule is not None
            return _TEXTS[id(shape.rule)].map(shape.rule.canonical)
        case Number():
            return st.integers(shape.least, shape.most)
        case Truth():
            return st.booleans()
        case Choice():
            return st.sampled_from(shape.words)
        case List():
            entries = value(shape.item)
            most = min(shape.most or 3, 3)
            return st.lists(
                entries, min_size=max(shape.least, 1), max_size=most, unique=isinstance(shape.item, Text)
            ).map(tuple)
        case Table():
            return st.dictionaries(value(shape.name), value(shape.value), max_size=3)
        case Part():
            return _HUGEPAGES if shape.struct is kinds.Hugepages else struct(shape.struct)


_HUGEPAGES = st.builds(
    lambda page, count: kinds.Hugepages(page=page, limit=f"{count}{page[1:]}" if page[0] == "1" else f"{2 * count}MiB"),
    st.sampled_from(["2MiB", "1GiB"]),
    st.integers(1, 999),
)

# Fields that contradict one another when they are drawn by themselves.
_APART: dict[type, Strategy] = {
    kinds.Link: st.sampled_from(
        [
            {"match", "mtu", "addresses", "dhcp4", "slaac", "up"},
            {"name", "addresses", "dhcp6", "routes"},
            {"name", "vlan", "mtu"},
            {"name", "bond", "addresses"},
            {"name", "bridge", "dhcp4"},
            {"name", "wireguard", "addresses"},
        ]
    ),
    kinds.RegistryAuth: st.sampled_from([{"host", "username", "password"}, {"host", "identity_token"}]),
    kinds.Bond: st.sampled_from([{"links", "mode"}, {"links", "monitor_interval_ms"}]),
    kinds.DiskSelector: st.sampled_from([{"wwn"}, {"serial", "model", "size_min"}, {"size_max"}]),
    kinds.Route: st.just({"to", "metric"}),
    kinds.HealthCheck: st.sampled_from([{"exec", "interval_s", "failures"}, {"tcp", "timeout_s"}, {"http", "grace_s"}]),
    kinds.WorkloadVolume: st.sampled_from([{"name", "size", "medium"}, {"name", "disk", "owner"}]),
}
_NEEDED = {
    "match",
    "name",
    "vlan",
    "bond",
    "bridge",
    "wireguard",
    "username",
    "password",
    "identity_token",
    "wwn",
    "size_max",
    "serial",
    "exec",
    "tcp",
    "http",
    "size",
}


@st.composite
def struct(draw: st.DrawFn, kind: type[msgspec.Struct]) -> Any:
    """A Struct of that kind that breaks no rule."""
    apart = draw(_APART[kind]) if kind in _APART else None
    chosen = {}
    for field in fields_of(kind).values():
        if field.name == "api_version" or (apart is not None and field.name not in apart):
            continue
        if field.required or (apart is not None and field.name in _NEEDED) or draw(st.integers(0, 3)):
            chosen[field.name] = draw(value(field.shape))
    made = _related(kind(**chosen))
    while findings := [finding for rule in RULES.get(kind, ()) for finding in rule(made)]:
        made = _related(_repaired(made, findings[0].path))
    return made


def _related(made: Any) -> Any:
    """The same with names of things that are there."""
    if isinstance(made, kinds.WorkloadConfig):
        containers = tuple(
            structs.replace(
                each,
                mounts=_renamed(each.mounts, "volume", made.volumes),
                secrets=_renamed(each.secrets, "secret", made.secrets),
            )
            for each in made.containers
        )
        return structs.replace(made, containers=containers)
    if isinstance(made, Configuration):
        disk = made.volumes[0].name if made.volumes else None
        workloads = tuple(
            structs.replace(
                workload,
                volumes=tuple(structs.replace(each, disk=each.disk and disk) for each in workload.volumes),
            )
            for workload in made.workloads
        )
        return structs.replace(made, workloads=workloads)
    return made


def _renamed(mounts: tuple[Any, ...], field: str, there: tuple[Any, ...]) -> tuple[Any, ...]:
    pairs = [(mount, there[at % len(there)].name) for at, mount in enumerate(mounts) if there]
    return tuple(structs.replace(mount, **{field: name}) for mount, name in pairs)


def _repaired(made: Any, path: Path) -> Any:
    """The Struct without what stands at *path*: an entry of a list or mapping, or else a whole field."""
    if not path:
        reject()
    field = fields_of(type(made))[str(path[0])]
    there = getattr(made, field.name)
    if isinstance(there, tuple) and len(path) > 1:
        rest: Any = tuple(entry for index, entry in enumerate(there) if index != path[1])
    elif isinstance(there, dict):
        rest = {name: entry for name, entry in there.items() if name != path[1]}
    else:
        rest = next(
            described.default for described in structs.fields(made) if described.name == field.name
        )  # never a mapping
    if rest is NODEFAULT or (field.required and not rest):
        reject()
    return structs.replace(made, **{field.name: rest})


def _no_rule_broken(configuration: Configuration) -> bool:
    return not any(finding for rule in CONFIGURATION_RULES for finding in rule(configuration))


def _named(kind: type[msgspec.Struct], most: int) -> Strategy:
    named = st.lists(struct(kind), max_size=most, unique_by=lambda document: document.name)  # type: ignore[attr-defined]
    return named.map(lambda documents: tuple(sorted(documents, key=lambda document: document.name)))


CONFIGURATIONS: st.SearchStrategy[Configuration] = st.builds(
    lambda **fields: _related(Configuration(**fields)),
    machine=st.none() | struct(kinds.MachineConfig),
    network=st.none() | struct(kinds.NetworkConfig),
    time=st.none() | struct(kinds.TimeConfig),
    access=st.none() | struct(kinds.AccessConfig),
    registry=struct(kinds.RegistryConfig),
    volumes=_named(kinds.VolumeConfig, 3),
    firewall=st.none() | struct(kinds.FirewallConfig),
    services=_named(kinds.ServiceConfig, 2),
    workloads=_named(kinds.WorkloadConfig, 2),
).filter(_no_rule_broken)
