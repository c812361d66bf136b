"""A token server for a registry: it gives out what https://distribution.github.io/distribution/spec/auth/jwt/ describes.

It runs on a thread of its own and speaks TLS, with a certificate of the registry's authority.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from basalt import pki
from tests.node.registry_access import HERE, Authority, Credentials, server_files

ISSUER, SERVICE = "the tests", "the tests' registry"
_LIFETIME = datetime.timedelta(minutes=5)


@dataclass
class TokenServer:
    """Lets everybody pull, or, with *credentials*, whom it knows. *asked* has the queries of the requests.

    :param signer: whose tokens the registry believes.
    """

    authority: Authority
    signer: pki.Identity
    credentials: Credentials | None = None
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    port: int = 0

    @property
    def settings(self) -> dict[str, str]:
        """What the registry has to know, but for the file with the authority's certificate."""
        return {"realm": f"https://{HERE}:{self.port}/token", "service": SERVICE, "issuer": ISSUER}

    def answer(self, target: str, authorization: str) -> dict[str, Any] | None:
        """The answer to a request; None for somebody whom it does not know."""
        query = parse_qs(urlsplit(target).query)
        self.asked.append(query)
        if self.credentials and authorization != self.credentials.header:
            return None
        access = []
        for scope in query.get("scope", []):
            kind, name, _ = scope.split(":")
            access.append({"type": kind, "name": name, "actions": ["pull"]})
        return {"token": self._token(access)}

    def _token(self, access: list[dict[str, Any]]) -> str:
        now = pki.utc_now()
        begin, end = (int(moment.timestamp()) for moment in (now - pki.CLOCK_SKEW_ALLOWANCE, now + _LIFETIME))
        names = {"iss": ISSUER, "aud": SERVICE, "sub": "", "jti": "1"}
        claims = {**names, "iat": begin, "nbf": begin, "exp": end, "access": access}
        certificate = x509.load_pem_x509_certificate(self.signer.certificate_pem)
        chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
        parts = [{"alg": "ES256", "typ": "JWT", "x5c": chain}, claims]
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
        key = pki.load_key(self.signer.key_pem, "the token server's key")
        numbers = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(b''.join(number.to_bytes(32, 'big') for number in numbers))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextlib.contextmanager
def running(authority: Authority, directory: Path, *, credentials: Credentials | None = None) -> Iterator[TokenServer]:
    """A token server while the block runs.

    :param directory: a new one, for its files.
    """
    made = TokenServer(authority, authority.issue(), credentials)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = made.answer(self.path, self.headers.get("Authorization", ""))
            body = json.dumps(answer or {}).encode()
            self.send_response(HTTPStatus.OK if answer else HTTPStatus.UNAUTHORIZED)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    directory.mkdir()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*server_files(authority, directory))
    server = http.server.ThreadingHTTPServer((HERE, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, name="token server", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
