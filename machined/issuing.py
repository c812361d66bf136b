"""Issues the node's short-lived server certificates from its issuing certificate.

The issuing key is made on the node and never leaves it; the issuing certificate comes from the operator's node authority by Enroll.
Both lie on STATE, and so does the server certificate in use: a node that boots shows it at once, without having to sign one first.
A node that is not enrolled is whole: its own certificate, which clients pin, never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from basalt.errors import BasaltError
from basalt.files import write_atomic
from basalt.pki import Identity, clock, fingerprint, pem_to_der, server_name, utc_now
from machined.gateway.trust import ServerIdentity
from machined.reconcile import CONVERGED, Status, failed, waiting

if TYPE_CHECKING:
    from cryptography import x509

ENDS_SOON = 0.2  # of the issuing certificate's lifetime: from then on the node asks to be enrolled again
ENROL = "enrol the node again: osctl enroll"


@dataclass(frozen=True)
class Server:
    """A server certificate that the node issued, as it is kept. Times in seconds since the epoch."""

    key: str = field(repr=False)
    certificate_chain: str
    issuer: str  # fingerprint of the issuing certificate that it hangs on
    lifetime_h: int  # for which it was meant
    not_before: float
    not_after: float
    renew: float  # when it is replaced
    digest: str = (
        ""  # of key and chain: a damaged key would make every handshake fail, also those for the node's own certificate
    )

    @property
    def content_digest(self) -> str:
        """What *digest* is when nothing is damaged."""
        return hashlib.blake2b((self.key + self.certificate_chain).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """``SHA256:<hex>`` of the certificate."""
        return fingerprint(pem_to_der(self.certificate_chain.encode()))


def due(server: Server | None, issuer: str, lifetime_h: int, now: float) -> bool:
    """Whether another server certificate is needed.

    :param issuer: fingerprint of the issuing certificate.
    :param lifetime_h: that is configured.
    :param now: seconds since the epoch. A clock that was set back to before the certificate's beginning needs another one too.
    """
    if server is None or server.issuer != issuer or server.lifetime_h != lifetime_h:
        return True
    return not server.not_before <= now < server.renew


def standing(issuer_begins: datetime.datetime, issuer_ends: datetime.datetime, now: datetime.datetime) -> Status:
    """What the issuing certificate's dates mean for the node."""
    if now < issuer_begins:
        return waiting(
            f"the issuing certificate is valid from {clock(issuer_begins)}; this node's clock says {clock(now)}",
            "one of the two clocks was wrong: see the concern 'time', or enrol the node again",
        )
    if now >= issuer_ends:
        return failed(
            f"the issuing certificate ended at {clock(issuer_ends)}; this node's clock says {clock(now)}: "
            "clients that know the node by its authority refuse it",
            ENROL,
        )
    if now >= issuer_ends - ENDS_SOON * (issuer_ends - issuer_begins):
        return waiting(f"the issuing certificate ends at {clock(issuer_ends)}", ENROL)
    return CONVERGED


class Issuing:
    """The issuing key and certificate of one node, and the server certificate in use.

    :param directory: on STATE, private to root.
    :param lifetime_h: how long a server certificate is to last.
    :param on_change: called when another server certificate is to be shown.
    """

    def __init__(
        self, directory: Path, node_id: str, lifetime_h: Callable[[], int], on_change: Callable[[], None]
    ) -> None:
        self._directory = directory
        self.node_id = node_id
        self._lifetime_h = lifetime_h
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._key_pem = self._read("issuing-key.pem")
        self.issuer_pem = self._read("issuer.pem")
        self.server = self._read_server()

    @property
    def shown(self) -> tuple[ServerIdentity, ...]:
        """What the gateway shows besides the node's own certificate."""
        if self.server is None:
            return ()
        return (ServerIdentity(server_name(self.node_id), self.server.key, self.server.certificate_chain),)

    async def signing_request(self) -> bytes:
        """The request (PKCS #10, PEM) for the issuing certificate."""
        from basalt.pki_node import make_signing_request

        async with self._lock:
            return make_signing_request(self._key(), self.node_id)

    async def enrol(self, issuer_pem: bytes) -> Server:
        """Take *issuer_pem* as the issuing certificate, durably, and issue the first server certificate with it.

        :raises CertificateError: it is none that this node can use, with every reason; nothing was changed.
        :raises OSError: STATE did not take it; nothing was changed.
        """
        from basalt.pki_checks import load_issuing_certificate

        async with self._lock:
            load_issuing_certificate(issuer_pem, "the request", key_pem=self._key(), node_id=self.node_id, at=utc_now())
            self._write("issuer.pem", issuer_pem, mode=0o644)
            self.issuer_pem = issuer_pem
            return self._issue(utc_now())

    async def reconcile(self) -> Status:
        """Issue another server certificate when one is due.

        :raises BasaltError: the issuing certificate on STATE is none that this node can use.
        :raises OSError: the new certificate is in use, and could not be kept.
        """
        async with self._lock:
            if not self.issuer_pem:
                return CONVERGED
            from basalt.pki_checks import load_issuing_certificate

            try:
                issuer = load_issuing_certificate(
                    self.issuer_pem, str(self._directory), key_pem=self._key(), node_id=self.node_id
                )
            except BasaltError as error:
                raise BasaltError(str(error), remedy=ENROL) from error
            now = utc_now()
            status = standing(issuer.not_valid_before_utc, issuer.not_valid_after_utc, now)
            issued_at = max(now, issuer.not_valid_before_utc)
            if now < issuer.not_valid_after_utc and due(
                self.server, fingerprint(pem_to_der(self.issuer_pem)), self._lifetime_h(), issued_at.timestamp()
            ):
                self._issue(now)
            return status

    def _issue(self, now: datetime.datetime) -> Server:
        from cryptography import x509

        from basalt.pki_node import issue_server

        lifetime_h = self._lifetime_h()
        lifetime = datetime.timedelta(hours=lifetime_h)
        made = issue_server(Identity(self.issuer_pem, self._key()), self.node_id, lifetime, now)
        leaf: x509.Certificate = x509.load_pem_x509_certificate(made.certificate_pem)
        begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        issued = max(now.timestamp(), begins)
        server = Server(
            key=made.key_pem.decode(),
            certificate_chain=made.certificate_pem.decode(),
            issuer=fingerprint(pem_to_der(self.issuer_pem)),
            lifetime_h=lifetime_h,
            not_before=begins,
            not_after=ends,
            renew=issued + (ends - issued) / 2,
        )
        self.server = replace(server, digest=server.content_digest)
        self._on_change()
        print(f"identity: server certificate issued, valid until {clock(leaf.not_valid_after_utc)}", flush=True)
        self._write("server.json", msgspec.json.encode(self.server), mode=0o600)
        return self.server

    def _key(self) -> bytes:
        """The issuing key, made and kept when there is none; where it cannot be kept it lasts as long as this process."""
        if not self._key_pem:
            from basalt.pki_node import make_issuing_key

            self._key_pem = make_issuing_key()
            with contextlib.suppress(OSError):
                self._write("issuing-key.pem", self._key_pem, mode=0o600)
        return self._key_pem

    def _read(self, name: str) -> bytes:
        try:
            return (self._directory / name).read_bytes()
        except OSError:  # not there, or a STATE in trouble, which says so itself
            return b""

    def _read_server(self) -> Server | None:
        """The server certificate in use; another is issued where it cannot be read."""
        try:
            server = msgspec.json.decode(self._read("server.json"), type=Server)
            kept_for = fingerprint(pem_to_der(self.issuer_pem))
        except (msgspec.MsgspecError, BasaltError):
            return None
        whole = server.digest == server.content_digest
        return server if whole and server.issuer == kept_for else None

    def _write(self, name: str, data: bytes, *, mode: int) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._directory / name, data, mode=mode)
