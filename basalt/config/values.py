"""The values in a configuration: what each kind of text must be, checked and brought into one spelling.

Every kind is a type, ``Annotated[str, ...]``, that carries its rule. The decoder applies the rule, the JSON schema and the
reference page quote it, and :data:`Secret` makes redaction follow from the types alone.
"""

from __future__ import annotations

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
Secret = Annotated[str, Meta(extra={SECRET: True}, extra_json_schema={"writeOnly": True})]

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
