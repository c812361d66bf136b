"""Who the node is: an id, a key and a certificate, made at first boot and kept on STATE.

The three are written before any of them is used, the id last: a directory without an id is one whose making was interrupted, and is
made again. Nobody has seen anything of it then.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from basalt.errors import BasaltError
from basalt.files import write_atomic
from basalt.pki import fingerprint, make_server_identity, pem_to_der


@dataclass(frozen=True)
class NodeIdentity:
    """The node's id and its certificate with key (PEM)."""

    node_id: str
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes

    @property
    def fingerprint(self) -> str:
        """``SHA256:<hex>`` of the certificate, as the console shows it and clients pin it."""
        return fingerprint(pem_to_der(self.certificate_pem))

    @property
    def machine_id(self) -> str:
        """For /etc/machine-id, which programs hash or send about: derived, so that it does not give the id away."""
        return hashlib.sha256(b"basalt machine-id " + self.node_id.encode()).hexdigest()[:32]

    @property
    def default_hostname(self) -> str:
        """The node's name until a configuration gives it another."""
        return f"basalt-{self.node_id[:8]}"


def load(directory: Path) -> NodeIdentity | None:
    """The identity kept in *directory*; None when none has been made.

    :raises BasaltError: there is one, and it cannot be read. It is not replaced: clients have pinned it.
    """
    try:
        node_id = (directory / "node-id").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BasaltError(f"cannot read {directory / 'node-id'}", why=str(error)) from error
    try:
        identity = NodeIdentity(
            node_id, (directory / "key.pem").read_bytes(), (directory / "certificate.pem").read_bytes()
        )
        pem_to_der(identity.certificate_pem)
    except (OSError, BasaltError) as error:
        raise BasaltError(
            f"the node's identity in {directory} is damaged",
            why=str(error),
            remedy="the node uses a temporary one; clients that pinned the old one will refuse it",
        ) from error
    return identity


def make(build_epoch: int) -> NodeIdentity:
    """A new identity. Its certificate is valid from the image's build time, which no correct clock precedes."""
    node_id = secrets.token_hex(16)
    not_before = datetime.datetime.fromtimestamp(build_epoch, datetime.UTC)
    made = make_server_identity(node_id, not_before)
    return NodeIdentity(node_id, made.key_pem, made.certificate_pem)


def keep(identity: NodeIdentity, directory: Path) -> None:
    """Write *identity* to *directory*, durable when this returns.

    :raises OSError: it could not be written; :func:`load` then still answers None.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(directory / "key.pem", identity.key_pem, mode=0o600)
    write_atomic(directory / "certificate.pem", identity.certificate_pem, mode=0o644)
    write_atomic(directory / "node-id", identity.node_id.encode() + b"\n", mode=0o644)
