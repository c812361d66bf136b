"""Where a node's API listens (``host:port``), and how long it may take to answer."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from basalt.errors import UsageError

DEFAULT_PORT = 50000

# For recognising a node and for each call. A node under emulation that has just come up needs several seconds.
DEFAULT_TIMEOUT_S = 30.0


class Endpoint(NamedTuple):
    """A host (name or address, IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read ``host``, ``host:port``, ``address``, ``[IPv6]:port``; the port defaults to the API's, 50000.

    :raises UsageError: when it is none of these.
    """
    if text.count(":") > 1 and not text.startswith("["):
        host, port = text, ""  # an IPv6 address without brackets can carry no port
    else:
        match = re.fullmatch(r"(?:\[([^][]+)\]|([^][:\s/]+))(?::([0-9]{1,5}))?", text)
        if match is None:
            raise _refused(text, "it is no HOST:PORT")
        host, port = match[1] or match[2], match[3] or ""
    if ":" in host or text.startswith("["):
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise _refused(text, str(error)) from error
    number = int(port) if port else DEFAULT_PORT
    if not 0 < number < 65536:
        raise _refused(text, "a port is a number from 1 to 65535")
    return Endpoint(host, number)


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text!r} is not an endpoint", why=why, remedy="write HOST, HOST:PORT or [IPv6]:PORT, such as 192.0.2.10:50000"
    )
