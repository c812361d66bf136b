"""The values in a configuration: what each kind of text must be, checked and brought into one spelling.

Every kind is a type, ``Annotated[str, ...]``, that carries its rule. The decoder applies the rule, the JSON schema and the
reference page quote it, and :data:`Secret` makes redaction follow from the types alone.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta


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


def _text(allowed: str, canonical: Callable[[str], str], example: str, **schema: Any) -> Meta:
    return Meta(examples=[example], extra={RULE: TextRule(allowed, canonical)}, extra_json_schema=schema or None)


# A value that no read, diff or log may show. Redaction follows this mark; see basalt.config.render.
SECRET_TEXT = Meta(extra={SECRET: True}, extra_json_schema={"writeOnly": True})
Secret = Annotated[str, SECRET_TEXT]

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def _matching(pattern: str, complaint: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def canonical(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(complaint)
        return text

    return canonical


def _hostname(text: str) -> str:
    lower = text.lower()
    if len(lower) > 63:  # HOST_NAME_MAX is 64; one DNS label holds 63
        raise ValueError(f"it has {len(lower)} characters")
    if re.fullmatch(_LABEL, lower) is None:
        raise ValueError("a dot belongs to a domain" if "." in lower else "other characters, or '-' at an end")
    return lower


def _domain(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > 253 or any(re.fullmatch(_LABEL, label) is None for label in name.split(".")):
        raise ValueError("it is no domain name")
    return name


def _interface_name(text: str) -> str:
    # dev_valid_name() in the kernel's net/core/dev.c; IFNAMSIZ is 16 with its terminating NUL.
    if not 1 <= len(text.encode()) <= 15:
        raise ValueError(f"it has {len(text.encode())} bytes")
    if text in (".", "..") or re.search(r"[/:\s]", text):
        raise ValueError("the kernel refuses it")
    return text


def _mac(text: str) -> str:
    lower = text.lower().replace("-", ":")
    if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", lower) is None:
        raise ValueError("it is no MAC address")
    if int(lower[:2], 16) & 1:
        raise ValueError("it is a group address; no card has one")
    return lower


def _prefixed(text: str) -> str:
    address, slash, length = text.partition("/")
    if not slash:
        example = f"{address}/64" if ":" in address else f"{address}/24"
        raise ValueError(f"its prefix length is missing (for example {example})")
    if not re.fullmatch(r"[0-9]{1,3}", length):
        raise ValueError("its prefix length is no number")
    return address


def _interface_address(text: str) -> str:
    address = _prefixed(text)
    _address(address)
    interface = ipaddress.ip_interface(text)
    network = interface.network
    if network.version == 4 and network.prefixlen < 31:
        if interface.ip == network.network_address:
            raise ValueError(f"it is the address of the network {network} itself")
        if interface.ip == network.broadcast_address:
            raise ValueError(f"it is the broadcast address of {network}")
    return interface.with_prefixlen


def _address(text: str) -> str:
    if "%" in text:
        raise ValueError("a zone (%) has no place here")
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast:
        raise ValueError("it is the address of no single machine")
    return str(address)


def _destination(text: str) -> str:
    if text == "default":
        return text
    _prefixed(text)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        network = ipaddress.ip_network(text, strict=False)
        raise ValueError(f"it has bits set after its prefix; the network is {network}") from None


def _host(text: str) -> str:
    try:
        return _address(text)
    except ValueError:
        if re.fullmatch(r"[0-9.]+|.*:.*", text):
            raise
        return _domain(text)


def _pem(text: str) -> str:
    """One certificate, its base64 in lines of 64. Only its frame is read: what it certifies is judged where it is used."""
    match = re.fullmatch(r"\s*-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END CERTIFICATE-----\s*", text)
    if match is None:
        raise ValueError("it is not one PEM certificate")
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True)
    except ValueError as error:
        raise ValueError(f"its base64 is broken: {error}") from error
    body = base64.b64encode(der).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _serial(text: str) -> str:
    digits = text.lower().replace(":", "").removeprefix("0x").lstrip("0")
    if re.fullmatch(r"[0-9a-f]{1,40}", digits) is None:  # at most 20 octets, RFC 5280, section 4.1.2.2
        raise ValueError("it is no serial number")
    return digits


def _prefix(text: str) -> str:
    return str(ipaddress.ip_network(text)) if "/" not in text else _destination(text)


def _sysctl_name(text: str) -> str:
    """In the spelling with dots. The first separator says which it is (sysctl.d(5)); with slashes the name is the path itself."""
    match = re.fullmatch(r"[a-z][a-z0-9_-]*([./])[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*", text)
    if match is None:
        raise ValueError("it is no name of a kernel setting")
    return text if match[1] == "." else text.translate(str.maketrans("./", "/."))


def _wireguard_key(text: str) -> str:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError("it is no key of 32 bytes in base64")
    return base64.b64encode(key).decode()


def _port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 1 <= int(text) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def _port_range(text: str) -> str:
    first, dash, last = text.partition("-")
    if not dash:
        return str(_port(first))
    if _port(first) > _port(last):
        raise ValueError("it ends before it begins")
    return str(_port(first)) if _port(first) == _port(last) else f"{_port(first)}-{_port(last)}"


def _socket_address(text: str) -> str:
    match = re.fullmatch(r"(?:\[([^][]+)\]|([^][:\s]+)):([0-9]+)", text)
    if match is None:
        raise ValueError("its port is missing")
    host = _host(match[1] or match[2])
    return f"[{host}]:{_port(match[3])}" if ":" in host else f"{host}:{_port(match[3])}"


def _log_endpoint(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("udp", "tcp"):
        raise ValueError("it begins with neither udp:// nor tcp://")
    return f"{scheme}://{_socket_address(rest.rstrip('/'))}"


def _http_url(text: str) -> str:
    match = re.fullmatch(r"(https?)://([^/\s?#@]+)(/[^\s?#]*)?", text)
    if match is None:
        raise ValueError("it is no http:// or https:// address without user, query and fragment")
    return f"{match[1]}://{_registry_host(match[2])}{(match[3] or '').rstrip('/')}"


def _registry_host(text: str) -> str:
    if text == "*":
        return text
    if re.fullmatch(r"[^][:\s]+|\[[^][]+\]", text):
        host = _host(text.strip("[]"))
        return f"[{host}]" if ":" in host else host
    return _socket_address(text)


_UNITS = {
    "": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def size_bytes(text: str) -> int:
    """A valid :data:`Size` in bytes."""
    match = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text)
    if match is None or match[2] not in _UNITS:
        raise ValueError("it is no size")
    return int(match[1]) * _UNITS[match[2]]


def _size(text: str) -> str:
    if size_bytes(text) == 0:
        raise ValueError("it is nothing")
    return text.replace(" ", "")


Hostname = Annotated[
    str,
    _text(
        "1 to 63 letters, digits and '-', neither first nor last a '-' (RFC 1123)",
        _hostname,
        "node-1",
        format="hostname",
    ),
]
Domain = Annotated[str, _text("a domain name", _domain, "example.org", format="hostname")]
Host = Annotated[str, _text("an IP address or a domain name", _host, "time.example.org")]
InterfaceName = Annotated[
    str, _text("1 to 15 bytes without '/', ':' and white space", _interface_name, "eth0", minLength=1, maxLength=15)
]
MacAddress = Annotated[str, _text("a MAC address", _mac, "52:54:00:12:34:56")]
InterfaceAddress = Annotated[
    str, _text("an IPv4 or IPv6 address with its prefix length", _interface_address, "192.0.2.10/24")
]
IpAddress = Annotated[str, _text("an IPv4 or IPv6 address", _address, "192.0.2.1")]
Destination = Annotated[str, _text("'default', or a network with its prefix length", _destination, "198.51.100.0/24")]
LabelKey = Annotated[
    str,
    _text(
        "a name of 1 to 63 letters, digits, '-', '_', '.', alone or after a domain and '/'",
        _matching(
            rf"({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?",
            "it is no name of a label",
        ),
        "example.org/rack",
    ),
]
LabelValue = Annotated[
    str,
    _text(
        "up to 63 letters, digits, '-', '_', '.', beginning and ending with a letter or digit",
        _matching(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", "it is no value of a label"),
        "r12",
        maxLength=63,
    ),
]
CertificatePem = Annotated[str, _text("one certificate in PEM", _pem, "-----BEGIN CERTIFICATE-----...")]
Serial = Annotated[str, _text("a serial number in hexadecimal digits, with or without colons", _serial, "4a1f09c2")]
Prefix = Annotated[str, _text("a network with its prefix length, or an address", _prefix, "10.0.0.0/8")]
WireguardKey = Annotated[
    str, _text("32 bytes in base64", _wireguard_key, "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")
]
SocketAddress = Annotated[
    str, _text("HOST:PORT, an IPv6 address in brackets", _socket_address, "vpn.example.org:51820")
]
PortRange = Annotated[str, _text("a port, or two with '-' between", _port_range, "30000-32767")]
LogEndpoint = Annotated[str, _text("udp://HOST:PORT or tcp://HOST:PORT", _log_endpoint, "tcp://logs.example.org:5140")]
HttpUrl = Annotated[str, _text("http:// or https:// with host and path", _http_url, "https://mirror.example.org")]
RegistryHost = Annotated[str, _text("a host, with its port if it has one, or '*'", _registry_host, "docker.io")]
Size = Annotated[str, _text("a number of bytes, or with KiB, MiB, GiB, TiB, kB, MB, GB, TB", _size, "512MiB")]
SysctlName = Annotated[
    str,
    _text(
        "names with '.' between, as below /proc/sys; a '.' within a name is written '/'",
        _sysctl_name,
        "net.core.somaxconn",
    ),
]
SysctlValue = Annotated[
    str, _text("one line of text; numbers too", _matching(r"[ -~\t]{1,1024}", "it is no line of text"), "4096")
]
ModuleName = Annotated[
    str,
    _text(
        "letters, digits, '_' and '-'", _matching(r"[A-Za-z0-9_-]{1,56}", "it is no name of a module"), "br_netfilter"
    ),
]
ParameterName = Annotated[
    str,
    _text("letters, digits and '_'", _matching(r"[A-Za-z0-9_]{1,64}", "it is no name of a parameter"), "nr_streams"),
]
ParameterValue = Annotated[
    str, _text("printable text without spaces and quotes", _matching(r"[!#-&(-~]{1,256}", "it is no value"), "4")
]
ServiceName = Annotated[
    str,
    _text(
        "a name that `osctl services` lists",
        _matching(r"[a-z][a-z0-9-]{0,31}", "it is no name of a service"),
        "machined",
    ),
]
VolumeName = Annotated[
    str,
    _text(
        "1 to 12 lower-case letters, digits and '-', beginning with a letter",
        _matching(r"[a-z][a-z0-9-]{0,10}[a-z0-9]|[a-z]", "it is no name of a volume"),
        "scratch",
    ),
]
RuleName = Annotated[
    str,
    _text(
        "1 to 63 letters, digits, '-', '_', '.'",
        _matching(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,62}", "it is no name of a rule"),
        "https",
    ),
]
EnvironmentName = Annotated[
    str,
    _text(
        "letters, digits and '_', not beginning with a digit",
        _matching(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "it is no name of a variable"),
        "HTTPS_PROXY",
    ),
]
Words = Annotated[
    str, _text("1 to 255 printable characters", _matching(r"[^\x00-\x1f\x7f]{1,255}", "it is not"), "S6Z2NX0R")
]
