"""Domain names in DNS wire format without compression (RFC 1035, section 3.1), as DHCPv6 and router advertisements carry them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LABEL = re.compile(rb"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def wire_names(data: bytes) -> Iterator[str]:
    """The names in *data*, lower case; padding (zeros) is skipped.

    Ends at the first thing that is no label of a host name: the names end up in resolv.conf, where a space or a line feed would be
    more than a name.
    """
    labels: list[str] = []
    at = 0
    while at < len(data):
        length = data[at]
        label = data[at + 1 : at + 1 + length]
        at += 1 + length
        if length:
            if len(label) < length or not _LABEL.fullmatch(label):
                return
            labels.append(label.decode("ascii").lower())
        elif labels:
            yield ".".join(labels)
            labels = []
