"""Documents behind a URL, from real servers on this machine."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from machined import paths
from machined.sources.fetch import fetch, shown
from machined.sources.model import FetchError, Remote

DATA = b"kind: MachineConfig\n"
DIGEST = hashlib.sha256(DATA).hexdigest()
YEAR = datetime.timedelta(days=365)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/") or "/to/")
        else:
            self.send_response({"/data": 200, "/large": 200}.get(path, 404))
        self.end_headers()
        if path == "/data":
            self.wfile.write(DATA)
        if path == "/large":
            self.wfile.write(b"#" * (paths.DOCUMENTS_BYTES_MAX + 1))

    def log_message(self, *_: Any) -> None:
        """Silent."""


Serve = Callable[[ssl.SSLContext | None], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(context: ssl.SSLContext | None) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def certificate(directory: Path, start: datetime.datetime, end: datetime.datetime) -> tuple[ssl.SSLContext, str]:
    """A TLS server for 127.0.0.1 that signs itself, and what vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(pem + key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context, pem.decode()


def test_plain_http_is_vouched_for_by_the_checksum(serve: Serve) -> None:
    url = f"http://127.0.0.1:{serve(None)}/data?token=1"
    assert fetch(Remote(url, DIGEST)) == DATA
    with pytest.raises(FetchError, match=r"is not what basalt\.config\.sha256 is of"):
        fetch(Remote(url, "00" * 32))


def test_https_is_vouched_for_by_the_authority(serve: Serve, tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    context, pem = certificate(tmp_path, now - YEAR, now + YEAR)
    port = serve(context)
    assert fetch(Remote(f"https://127.0.0.1:{port}/data", "", pem)) == DATA
    other, pem = certificate(tmp_path, now - YEAR, now + YEAR)
    del other
    with pytest.raises(FetchError, match="certificate is not accepted"):
        fetch(Remote(f"https://127.0.0.1:{port}/data", DIGEST, pem))


@pytest.mark.parametrize(("start", "end", "said"), [(-2, -1, "expired"), (1, 2, "not yet valid")])
def test_a_certificate_out_of_its_time_shows_the_nodes_clock(
    serve: Serve, tmp_path: Path, start: int, end: int, said: str
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    context, pem = certificate(tmp_path, now + start * YEAR, now + end * YEAR)
    with pytest.raises(FetchError) as caught:
        fetch(Remote(f"https://127.0.0.1:{serve(context)}/data", "", pem))
    assert said in caught.value.why and f"the node's clock says {now.year}-" in caught.value.why


def test_redirections_stay_where_something_vouches_for_them(serve: Serve, tmp_path: Path) -> None:
    plain = serve(None)
    target = f"http://127.0.0.1:{plain}/data"
    assert fetch(Remote(f"http://127.0.0.1:{plain}/to/{target}", DIGEST)) == DATA
    now = datetime.datetime.now(datetime.UTC)
    context, pem = certificate(tmp_path, now - YEAR, now + YEAR)
    with pytest.raises(FetchError, match="nothing vouches for"):
        fetch(Remote(f"https://127.0.0.1:{serve(context)}/to/{target}", "", pem))
    with pytest.raises(FetchError, match="redirections"):
        fetch(Remote(f"http://127.0.0.1:{plain}/to/", DIGEST))


@pytest.mark.parametrize(("path", "said"), [("/none", "answers 404"), ("/large", "larger than")])
def test_what_the_server_says_is_told(serve: Serve, path: str, said: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(Remote(f"http://127.0.0.1:{serve(None)}{path}", DIGEST))
    assert said in caught.value.why


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://[broken/", "http:///", "http://127.0.0.1:99999/"])
def test_nobody_there_is_an_error_in_words(url: str) -> None:
    with pytest.raises(FetchError):
        fetch(Remote(url, DIGEST))


def test_what_may_be_a_secret_is_not_shown() -> None:
    assert shown("https://user:pw@host.example:8443/a.yaml?token=x#y") == "https://host.example:8443/a.yaml"
