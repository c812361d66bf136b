"""What the gateway is told by machined: one file, replaced atomically, so that key, certificate and authorities always belong together.

The gateway reads it again whenever it has changed, at each handshake and each call: a new client authority or a new mode takes
effect at once, without a restart and without a connection dropped. It lies in a directory that only root may write and only the
gateway's group may read, and holds the one secret that the gateway needs, the node's key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from basalt.errors import BasaltError
from basalt.files import write_atomic

LOCKED = "locked"  # no client authority is known: everybody is refused
FIRST_CONTACT = "first-contact"  # no configuration yet: the contract's first-contact methods alone
CONFIGURED = "configured"

FILE_MODE = 0o640  # root writes, the gateway's group reads


@dataclass(frozen=True)
class ServerIdentity:
    """What the gateway shows to clients that ask for *server_name* (TLS SNI)."""

    server_name: str
    key: str = field(repr=False)  # PEM
    certificate_chain: str  # PEM, the gateway's own first


@dataclass(frozen=True)
class Trust:
    """Whom the gateway is and whom it listens to."""

    mode: str
    identities: tuple[ServerIdentity, ...]  # the first is shown to clients that ask for none of the names
    client_authorities: str  # PEM, one or more certificates; empty when locked
    revoked: tuple[str, ...] = ()  # serial numbers of client certificates, lower-case hex without leading zeros


def write_trust(path: Path, trust: Trust, *, group: int | None) -> None:
    """Hand *trust* to the gateway.

    :param group: the gateway's gid; None leaves the file to the caller's group (a test without root).
    """
    directory = path.parent
    directory.mkdir(mode=0o750, exist_ok=True)
    if group is not None:
        os.chown(directory, 0, group)
    staged = directory / f".{path.name}.staged"
    # Owner and mode must be right before the name appears, or the gateway could find a file that it cannot read.
    write_atomic(staged, msgspec.json.encode(trust), mode=FILE_MODE)
    if group is not None:
        os.chown(staged, 0, group)
    staged.rename(path)


def parse_trust(data: bytes) -> Trust:
    """The reverse of :func:`write_trust`.

    :raises BasaltError: it is not what machined writes.
    """
    try:
        return msgspec.json.decode(data, type=Trust)
    except msgspec.MsgspecError as error:
        raise BasaltError("cannot read what machined says about trust", why=str(error)) from error


class TrustFile:
    """The file at *path*, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._trust: Trust | None = None

    def refresh(self) -> bool:
        """Read the file if it is not the one read last; whether it was.

        A file that has vanished or does not parse leaves the last good one in force: machined being in trouble is no reason to
        forget whom to trust.
        """
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            if identity == self._seen:
                return False
            self._trust = parse_trust(self._path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, BasaltError) as error:
            print(f"gateway: {self._path}: {error}", flush=True)
            return False
        self._seen = identity
        return True

    @property
    def current(self) -> Trust | None:
        """What was read last; None before machined has written anything."""
        return self._trust
