"""TLS by hand: fetch a node's certificate, and find out what gRPC keeps to itself.

gRPC reports every broken connection as UNAVAILABLE with a text that names neither the alert nor whose certificate was
refused. Python's ``ssl`` does the handshake again and says what happened, in the words of :class:`UnreachableError`.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from basalt.endpoint import Endpoint
from basalt.errors import UnreachableError
from basalt.pki import SERVER_NAME, Identity

# TLS alerts as OpenSSL names them, each with what it means when a node sends it.
_ALERTS = {
    "UNKNOWN_CA": "the node does not trust the authority that signed the client certificate",
    "BAD_CERTIFICATE": "the node refuses the client certificate",
    "CERTIFICATE_EXPIRED": "by the node's clock the client certificate is outside its dates",
    "CERTIFICATE_REVOKED": "the client certificate was revoked",
    "CERTIFICATE_UNKNOWN": "the node refuses the client certificate",
    "CERTIFICATE_REQUIRED": "the node wants a client certificate and got none",
    "UNSUPPORTED_CERTIFICATE": "the node takes no client certificate of this kind",
    "ACCESS_DENIED": "the node refuses this client",
    "DECRYPT_ERROR": "the client's key does not belong to its certificate",
    "PROTOCOL_VERSION": "the node speaks no TLS version that is accepted here (1.2 or later)",
    "HANDSHAKE_FAILURE": "node and client found no cipher in common",
}
_CERTIFICATE_ALERTS = {
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REQUIRED",
    "UNSUPPORTED_CERTIFICATE",
    "ACCESS_DENIED",
}

# What OpenSSL complains about when the bytes it got are not TLS at all.
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "INVALID_RECORD"}
_OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"}


class Refusal(NamedTuple):
    """The node ended the connection because of the client's certificate."""

    alert: str  # "UNKNOWN_CA"; empty where it just hung up, as gRPC's own server does
    meaning: str


class Unverified(NamedTuple):
    """A certificate that a node showed, and why it does not lead to the authorities that it should."""

    code: int  # X509_V_ERR_..., as in OpenSSL's x509_vfy.h
    message: str
    certificate: bytes  # DER


def fetch_certificate(endpoint: Endpoint, *, timeout_s: float, server_name: str = SERVER_NAME) -> bytes:
    """The certificate that answers at *endpoint* (DER), which proves nothing until it is compared with a pin.

    No client certificate is shown: who the operator is, is nothing for a node that is not recognised yet.

    :param server_name: whose certificate to ask for (SNI); a node that has none of that name shows its own.
    :raises UnreachableError: with the reason.
    """
    with _handshake(endpoint, None, timeout_s, server_name) as stream:
        certificate = stream.getpeercert(binary_form=True)
    if certificate is None:
        raise _unreachable(endpoint, "it showed no certificate")
    return certificate


def verify_node(endpoint: Endpoint, server_name: str, authorities: bytes, *, timeout_s: float) -> Unverified | None:
    """Whether the node shows a certificate for *server_name* that leads to *authorities* (PEM): None, or why not.

    :raises UnreachableError: when no handshake got that far, with the reason.
    """
    context = _context(None)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.load_verify_locations(cadata=authorities.decode("ascii"))
    try:
        with (
            socket.create_connection(endpoint, timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=server_name),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        shown = fetch_certificate(endpoint, timeout_s=timeout_s, server_name=server_name)
        return Unverified(error.verify_code, error.verify_message, shown)
    except OSError as error:
        raise _explain(endpoint, error) from error


def ask_admission(
    endpoint: Endpoint, identity: Identity, *, timeout_s: float, server_name: str = SERVER_NAME
) -> Refusal | None:
    """Whether the node lets the holder of *identity* in: None, or how it refused.

    :raises UnreachableError: when not even that could be found out, with the reason.
    """
    try:
        with _handshake(endpoint, identity, timeout_s, server_name) as stream:
            # In TLS 1.3 the server judges the client's certificate after the client's side of the handshake is done.
            if not stream.recv(1):
                return Refusal("", "the node hung up when it saw the client certificate")
    except ssl.SSLEOFError:
        return Refusal("", "the node hung up when it saw the client certificate")
    except ssl.SSLError as error:
        alert = _alert(error)
        if alert in _CERTIFICATE_ALERTS:
            return Refusal(alert, _ALERTS[alert])
        raise _explain(endpoint, error) from error
    except (TimeoutError, OSError) as error:
        raise _explain(endpoint, error) from error
    return None


def node_clock(endpoint: Endpoint, *, timeout_s: float) -> datetime.datetime | None:
    """The node's clock, as far as TLS tells it; None where it does not.

    gRPC's BoringSSL writes its clock into the first four bytes of a TLS 1.2 ServerHello's random (RFC 5246, section
    7.4.1.2; OpenSSL writes random bytes). Two handshakes tell the two apart: a clock hardly moves in between.
    """
    try:
        first, second = (_server_random_head(endpoint, timeout_s) for _ in range(2))
    except (OSError, ValueError):
        return None
    if not 0 <= second - first <= 60:
        return None
    return datetime.datetime.fromtimestamp(second, datetime.UTC)


@contextlib.contextmanager
def _handshake(
    endpoint: Endpoint, identity: Identity | None, timeout_s: float, server_name: str
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection in the manner of gRPC; errors of the body and of the client's certificate are the caller's."""
    context = _context(identity)
    try:
        raw = socket.create_connection(endpoint, timeout_s)
    except OSError as error:
        raise _explain(endpoint, error) from error
    with raw:
        try:
            stream = context.wrap_socket(raw, server_hostname=server_name)
        except OSError as error:
            if identity is not None and isinstance(error, ssl.SSLError):
                raise
            raise _explain(endpoint, error) from error
        with stream:
            yield stream


def _context(identity: Identity | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whose certificate it is, is decided by its fingerprint; no authority and no host name has a say.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        # The module reads keys from files only; this one is private (0600) and gone when it has been read.
        with tempfile.NamedTemporaryFile(prefix="basalt-") as file:
            file.write(identity.certificate_pem + identity.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _server_random_head(endpoint: Endpoint, timeout_s: float) -> int:
    """The first four bytes of a TLS 1.2 server's random, big-endian.

    :raises ValueError: when the peer answers with anything but a ServerHello.
    """
    context = _context(None)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME).do_handshake()
    with socket.create_connection(endpoint, timeout_s) as stream:
        stream.sendall(outgoing.read())
        answer = b""
        while len(answer) < 15:
            received = stream.recv(4096)
            if not received:
                raise ValueError("the peer hung up")
            answer += received
    # Record: type(1) version(2) length(2); handshake: type(1) length(3) version(2) random(32).
    if answer[0] != 22 or answer[5] != 2:
        raise ValueError("no ServerHello")
    return int.from_bytes(answer[11:15], "big")


def _alert(error: ssl.SSLError) -> str:
    """The alert that the peer sent, without OpenSSL's protocol prefix; empty where it sent none."""
    prefix, found, name = (error.reason or "").partition("_ALERT_")
    return name if found and prefix.startswith(("TLSV", "SSLV")) else ""


def _explain(endpoint: Endpoint, error: OSError) -> UnreachableError:
    """A failed connection or handshake in words. Certificate refusals are not handled here."""
    where = "check the address and that the node is up: its console says 'basalt: api ready on :50000'"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        alert = _alert(error)
        if reason in _OLD_TLS:
            why = "it speaks only versions of TLS that are broken; 1.2 is the oldest that is accepted"
            return _unreachable(endpoint, why, remedy="this is no Basalt node: check the address")
        if reason in _NOT_TLS:
            return _unreachable(
                endpoint, "what answers there does not speak TLS", remedy="this is no Basalt node: check host and port"
            )
        if isinstance(error, ssl.SSLEOFError):
            return _unreachable(endpoint, "it hung up in the middle of the TLS handshake", remedy=where)
        if alert:
            meaning = _ALERTS.get(alert, "it gave no other reason")
            return _unreachable(endpoint, f"it ended the TLS handshake with the alert {alert.lower()}: {meaning}")
        return _unreachable(endpoint, f"the TLS handshake failed: {error.reason or error}")
    if isinstance(error, TimeoutError):
        return _unreachable(endpoint, "it did not answer in time", remedy=where)
    if isinstance(error, ConnectionRefusedError):
        return _unreachable(endpoint, "nothing listens there (connection refused)", remedy=where)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return _unreachable(endpoint, "it broke off the TLS handshake (connection reset)", remedy=where)
    if isinstance(error, socket.gaierror):
        why = f"the name {endpoint.host!r} has no address: {error.strerror}"
        return _unreachable(endpoint, why, remedy="check the name, or use the address that the console shows")
    return _unreachable(endpoint, error.strerror or str(error), remedy=where)


def _unreachable(endpoint: Endpoint, why: str, *, remedy: str = "") -> UnreachableError:
    return UnreachableError(f"cannot reach a node at {endpoint}", why=why, remedy=remedy)
