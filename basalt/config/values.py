"""The values in a configuration: what each kind of text must be.

Every kind is a type, ``Annotated[str, ...]``, that carries its rule. The decoder applies the rule, the JSON schema and the
reference page quote it, and :data:`Secret` makes redaction follow from the types alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta

from basalt.config import spelling
from basalt.config.spelling import cpu_millis as cpu_millis
from basalt.config.spelling import size_bytes as size_bytes


class TextRule:
    """A rule for a text field.

    :param allowed: what is allowed, in words, after "allowed:".
    :param canonical: gives the one spelling of a valid text; raises ValueError, saying what is wrong, for another.
    """

    def __init__(self, allowed: str, canonical: Callable[[str], str]) -> None:
        self.allowed = allowed
        self.canonical = canonical


# Keys of an annotation's extra.
RULE = "rule"
SECRET = "secret"

# What stands for a secret in a copy for reading. No secret may have this value.
REDACTED = "[redacted]"


def _text(allowed: str, canonical: Callable[[str], str], example: str = "", **schema: Any) -> Meta:
    """*schema*: what the JSON schema says. It may be more lenient than the rule, never stricter."""
    return Meta(
        examples=[example] if example else None,
        extra={RULE: TextRule(allowed, canonical)},
        extra_json_schema=schema or None,
    )


def _matching(allowed: str, pattern: str, complaint: str, example: str, **schema: Any) -> Meta:
    """A text that fits *pattern* as it is. The JSON schema has the pattern; it must mean the same in ECMA 262."""
    compiled = re.compile(pattern)

    def canonical(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(complaint)
        return text

    return _text(allowed, canonical, example, pattern=f"^({pattern})$", **schema)


# Marks, in the JSON schema, texts that often look like a number (a port, a kernel setting): an editor must not complain of one
# without quotes. See basalt.config.schema.
OR_NUMBER = "orNumber"
_OR_NUMBER: dict[str, Any] = {OR_NUMBER: True}
_ADDRESS = r"[0-9A-Fa-f:.]+"

# A value that no read, diff or log may show. Redaction follows this mark; see basalt.config.redaction.
SECRET_TEXT = Meta(extra={SECRET: True}, extra_json_schema={"writeOnly": True})
Secret = Annotated[str, _text("1 to 4096 printable characters", spelling.secret), SECRET_TEXT]
SecretValue = Annotated[str, _text("up to 4096 printable characters", spelling.secret_value), SECRET_TEXT]
SecretText = Annotated[
    str, _text("1 to 65536 characters", spelling.secret_text, minLength=1, maxLength=65536), SECRET_TEXT
]
WireguardSecret = Annotated[str, _text("32 bytes in base64", spelling.wireguard_key), SECRET_TEXT]

Hostname = Annotated[
    str,
    _text(
        "1 to 63 letters, digits and '-', neither first nor last a '-' (RFC 1123)",
        spelling.hostname,
        "node-1",
        format="hostname",
    ),
]
Domain = Annotated[str, _text("a domain name", spelling.domain, "example.org", format="hostname")]
Host = Annotated[str, _text("an IP address or a domain name", spelling.host, "time.example.org")]
InterfaceName = Annotated[
    str,
    _text(
        "1 to 15 letters, digits, '.', '_', '-', beginning with none of '.' and '-'",
        spelling.interface_name,
        "eth0",
        pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$",
    ),
]
MacAddress = Annotated[
    str, _text("a MAC address", spelling.mac, "52:54:00:12:34:56", pattern="^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$")
]
InterfaceAddress = Annotated[
    str,
    _text(
        "an IPv4 or IPv6 address with its prefix length",
        spelling.interface_address,
        "192.0.2.10/24",
        pattern=f"^{_ADDRESS}/[0-9]{{1,3}}$",
    ),
]
IpAddress = Annotated[str, _text("an IPv4 or IPv6 address", spelling.ip_address, "192.0.2.1", pattern=f"^{_ADDRESS}$")]
Destination = Annotated[
    str,
    _text(
        "'default', or a network with its prefix length",
        spelling.destination,
        "198.51.100.0/24",
        pattern=f"^(default|{_ADDRESS}/[0-9]{{1,3}})$",
    ),
]
LabelKey = Annotated[
    str,
    _matching(
        "a name of 1 to 63 letters, digits, '-', '_', '.', alone or after a domain and '/'",
        rf"({spelling.LABEL}(\.{spelling.LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?",
        "it is no name of a label",
        "example.org/rack",
    ),
]
LabelValue = Annotated[
    str,
    _matching(
        "up to 63 letters, digits, '-', '_', '.', beginning and ending with a letter or digit",
        r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?",
        "it is no value of a label",
        "r12",
        **_OR_NUMBER,
    ),
]
CertificatePem = Annotated[
    str,
    _text(
        "one certificate in PEM", spelling.pem, "-----BEGIN CERTIFICATE-----...", pattern="-----BEGIN CERTIFICATE-----"
    ),
]
Serial = Annotated[
    str,
    _text(
        "a serial number in hexadecimal digits, with or without colons",
        spelling.serial,
        "4a1f09c2",
        pattern="^(0[xX])?[0-9A-Fa-f:]+$",
        **_OR_NUMBER,
    ),
]
Prefix = Annotated[
    str,
    _text(
        "a network with its prefix length, or an address",
        spelling.prefix,
        "10.0.0.0/8",
        pattern=f"^{_ADDRESS}(/[0-9]{{1,3}})?$",
    ),
]
WireguardKey = Annotated[
    str,
    _text(
        "32 bytes in base64",
        spelling.wireguard_key,
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        pattern="^[A-Za-z0-9+/]{43}=$",
    ),
]
SocketAddress = Annotated[
    str,
    _text(
        "HOST:PORT, an IPv6 address in brackets", spelling.socket_address, "vpn.example.org:51820", pattern=":[0-9]+$"
    ),
]
PortRange = Annotated[
    str,
    _text(
        "a port, or two with '-' between",
        spelling.port_range,
        "30000-32767",
        pattern="^[0-9]{1,5}(-[0-9]{1,5})?$",
        **_OR_NUMBER,
    ),
]
LogEndpoint = Annotated[
    str,
    _text(
        "udp://HOST:PORT or tcp://HOST:PORT",
        spelling.log_endpoint,
        "tcp://logs.example.org:5140",
        pattern="^(udp|tcp)://.+:[0-9]+/*$",
    ),
]
HttpUrl = Annotated[
    str,
    _text(
        "http:// or https:// with host and path",
        spelling.http_url,
        "https://mirror.example.org",
        pattern="^https?://[^/?#@]+(/[^?#]*)?$",
    ),
]
RegistryHost = Annotated[
    str, _text("a host, with its port if it has one", spelling.registry_host, "registry.example.org:5000")
]
Registry = Annotated[str, _text("a host, with its port if it has one, or '*'", spelling.registry, "docker.io")]
Size = Annotated[
    str,
    _text(
        "a number of bytes, or with KiB, MiB, GiB, TiB, kB, MB, GB, TB",
        spelling.size,
        "512MiB",
        pattern="^[0-9]{1,15} ?([KMGT]iB|[kMGT]B)?$",
        **_OR_NUMBER,
    ),
]
SysctlName = Annotated[
    str,
    _text(
        "names with '.' between, as below /proc/sys; a '.' within a name is written '/'",
        spelling.sysctl_name,
        "net.core.somaxconn",
        pattern="^[a-z][a-z0-9_-]*([./][A-Za-z0-9_-]+)+$",
    ),
]
SysctlValue = Annotated[str, _text("one line of text; numbers too", spelling.sysctl_value, "4096", **_OR_NUMBER)]
ModuleName = Annotated[
    str, _matching("letters, digits, '_' and '-'", r"[A-Za-z0-9_-]{1,56}", "it is no name of a module", "br_netfilter")
]
ParameterName = Annotated[
    str, _matching("letters, digits and '_'", r"[A-Za-z0-9_]{1,64}", "it is no name of a parameter", "nr_streams")
]
ParameterValue = Annotated[
    str,
    _matching("printable text without spaces and quotes", r"[!#-&(-~]{1,256}", "it is no value", "4", **_OR_NUMBER),
]
ServiceName = Annotated[
    str,
    _matching("a name that `osctl services` lists", r"[a-z][a-z0-9-]{0,31}", "it is no name of a service", "machined"),
]
VolumeName = Annotated[
    str,
    _matching(
        "1 to 12 lower-case letters, digits and '-', beginning with a letter and not ending with '-'",
        r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?",
        "it is no name of a volume",
        "scratch",
    ),
]
RuleName = Annotated[
    str,
    _matching(
        "1 to 63 letters, digits, '-', '_', '.', beginning with a letter or digit",
        r"[A-Za-z0-9][-A-Za-z0-9_.]{0,62}",
        "it is no name of a rule",
        "https",
    ),
]
EnvironmentName = Annotated[
    str,
    _matching(
        "letters, digits and '_', not beginning with a digit",
        r"[A-Za-z_][A-Za-z0-9_]{0,127}",
        "it is no name of a variable",
        "HTTPS_PROXY",
    ),
]
Words = Annotated[
    str,
    _text("1 to 255 printable characters, no space at an end", spelling.words, "S6Z2NX0R", maxLength=255, **_OR_NUMBER),
]
UserName = Annotated[
    str,
    _text("1 to 255 printable characters, no space at an end", spelling.words, "puller", maxLength=255, **_OR_NUMBER),
]

WorkloadName = Annotated[
    str,
    _matching(
        "1 to 63 lower-case letters, digits and '-', neither first nor last a '-' (RFC 1123)",
        spelling.LABEL,
        "it is no such name",
        "web",
    ),
]
ImageReference = Annotated[
    str,
    _text(
        "an image's name: HOST/PATH:TAG or HOST/PATH@DIGEST",
        spelling.image_reference,
        "docker.io/library/nginx:1.27",
        pattern="^[^:@/ ][^ ]*$",
    ),
]
ImagePattern = Annotated[
    str,
    _text(
        "HOST, or HOST/PATH with the beginning of a path, without tag; or '*'",
        spelling.image_pattern,
        "registry.example.org/team",
        pattern="^[^@ ]+$",
    ),
]
PublicKeyPem = Annotated[
    str,
    _text(
        "one public key in PEM: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits",
        spelling.public_key,
        "-----BEGIN PUBLIC KEY-----...",
        pattern="-----BEGIN PUBLIC KEY-----",
    ),
]
Toml = Annotated[str, _text("TOML, up to 65536 characters", spelling.toml, minLength=1, maxLength=65536)]
Line = Annotated[str, _text("up to 32768 characters", spelling.line, maxLength=32768, **_OR_NUMBER)]
ContainerPath = Annotated[
    str,
    _text("an absolute path without '..', not '/' itself", spelling.container_path, "/srv/data", pattern="^/[^/]"),
]
ContainerDirectory = Annotated[
    str, _text("an absolute path without '..'", spelling.container_directory, "/srv", pattern="^/")
]
UrlPath = Annotated[
    str,
    _matching(
        "'/' and up to 2047 more printable characters of ASCII, no spaces",
        "/[!-~]{0,2047}",
        "it is no path of an address",
        "/healthz",
    ),
]
CpuAmount = Annotated[
    str,
    _text(
        "a number from 0.01 to 1024 with up to three decimals",
        spelling.cpu_amount,
        "0.25",
        pattern=r"^[0-9]{1,4}(\.[0-9]{1,3})?$",
        **_OR_NUMBER,
    ),
]
HugepageSize = Annotated[str, _text("2MiB or 1GiB", spelling.hugepage_size, "2MiB", pattern="^[0-9]+ ?[A-Za-z]*$")]
FileMode = Annotated[
    str,
    _text(
        "3 or 4 octal digits, of 4 the first one 0",
        spelling.file_mode,
        "0400",
        pattern="^0?[0-7]{3}$",
        **_OR_NUMBER,
    ),
]
UserAndGroup = Annotated[
    str,
    _text(
        f"a number up to {2**32 - 2} or a name, alone or with ':' and a group's",
        spelling.user_and_group,
        "1000:1000",
        pattern="^[^:]+(:[^:]+)?$",
        **_OR_NUMBER,
    ),
]
Owner = Annotated[
    str,
    _text(
        f"UID or UID:GID, numbers up to {2**32 - 2}",
        spelling.owner,
        "1000:1000",
        pattern="^[0-9]+(:[0-9]+)?$",
        **_OR_NUMBER,
    ),
]
CapabilityName = Annotated[
    str,
    _text(
        "a capability of the kernel, such as NET_ADMIN, or ALL",
        spelling.capability,
        "NET_BIND_SERVICE",
        pattern="^[A-Za-z_]+$",
    ),
]
# As CDI's own pkg/parser has it, but for one thing: of a vendor or class of one letter it slices out of bounds, which is a panic.
CdiName = Annotated[
    str,
    _matching(
        "VENDOR/CLASS=DEVICE, as CDI names devices",
        "[A-Za-z][A-Za-z0-9_.-]{0,251}[A-Za-z0-9]/[A-Za-z][A-Za-z0-9_.-]{0,61}[A-Za-z0-9]"
        "=[A-Za-z0-9]([A-Za-z0-9_.:-]{0,253}[A-Za-z0-9])?",
        "it is no name of a CDI device",
        "vendor.com/class=device",
    ),
]
