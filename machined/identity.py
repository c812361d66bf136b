"""Who the node is: an id, a key and a certificate, made at first boot and kept on STATE.

The three are written before any of them is used, the id last: a directory without an id is one whose making was interrupted, and is
made again. Nobody has seen anything of it then.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from basalt.errors import BasaltError
from basalt.files import write_atomic
from basalt.pki import fingerprint, make_server_identity, pem_to_der

NODE_ID_BYTES = 16


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
        if not kept_id(directory):
            raise BasaltError(f"{node_id!r} is no node id")
        identity = NodeIdentity(
            node_id, (directory / "key.pem").read_bytes(), (directory / "certificate.pem").read_bytes()
        )
        _check_pair(directory / "certificate.pem", directory / "key.pem")
    except (OSError, BasaltError) as error:  # ssl's errors are OSErrors
        raise BasaltError(
            f"the node's identity in {directory} is damaged",
            why=str(error),
            remedy="the node uses a temporary certificate; clients that pinned the old one will refuse it",
        ) from error
    return identity


def _check_pair(certificate: Path, key: Path) -> None:
    """Check that both can be read and belong together: with a damaged key every handshake would fail, and nobody could say why.

    OpenSSL is asked because asyncio has loaded it anyway.

    :raises BasaltError: they cannot be used.
    :raises OSError: a file cannot be read.
    """
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=b"")
    except ssl.SSLError as error:
        reason = (error.reason or "it is no PEM file").lower().replace("_", " ")
        raise BasaltError("the node's certificate and key cannot be used", why=reason) from error


def make(build_epoch: int, node_id: str = "") -> NodeIdentity:
    """A new identity. Its certificate is valid from the image's build time, which no correct clock precedes.

    :param node_id: to go on with; empty for a new one.
    """
    node_id = node_id or secrets.token_hex(NODE_ID_BYTES)
    not_before = datetime.datetime.fromtimestamp(build_epoch, datetime.UTC)
    made = make_server_identity(node_id, not_before)
    return NodeIdentity(node_id, made.key_pem, made.certificate_pem)


def kept_id(directory: Path) -> str:
    """The node id of an identity that is otherwise damaged; empty when it cannot be read either.

    With it the node is still the one that its node authority vouches for: only the pinned certificate is another.
    """
    try:
        text = (directory / "node-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return text if re.fullmatch(f"[0-9a-f]{{{2 * NODE_ID_BYTES}}}", text) else ""


def keep(identity: NodeIdentity, directory: Path) -> None:
    """Write *identity* to *directory*, durable when this returns.

    :raises OSError: it could not be written; :func:`load` then still answers None.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(directory / "key.pem", identity.key_pem, mode=0o600)
    write_atomic(directory / "certificate.pem", identity.certificate_pem, mode=0o644)
    write_atomic(directory / "node-id", identity.node_id.encode() + b"\n", mode=0o644)
