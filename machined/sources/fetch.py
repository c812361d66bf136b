"""Documents behind a URL. Blocking: runs in a thread.

What is fetched is trusted because a certificate or a checksum vouches for it: https is checked against the public authorities or the
one given, also where a checksum is given (what is fetched may hold secrets); plain http is taken with a checksum alone.
"""

from __future__ import annotations

import datetime
import hashlib
import http.client
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from basalt import pki
from machined import paths
from machined.sources.model import FetchError, Remote

TIMEOUT_S = 15.0  # for one answer of the server
WHOLE_TIMEOUT_S = 60.0  # for everything: a server that drips must not hold the search up
REDIRECTS_MAX = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED (openssl-verification-options(1))
_CLOCK_ERRORS = (9, 10)


def shown(url: str) -> str:
    """*url* without what may be a secret: user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a URL that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def fetch(remote: Remote) -> bytes:
    """The documents.

    :raises FetchError: they could not be had, or are not those that the checksum is of.
    """
    deadline = time.monotonic() + WHOLE_TIMEOUT_S
    url = remote.url
    for _ in range(REDIRECTS_MAX):
        try:
            status, location, data = _get(urlsplit(url), remote.authority_pem, deadline)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise FetchError(f"cannot fetch {shown(url)}", why=explain(error)) from error
        if status == 200:
            return _checked(data, remote)
        if status not in _REDIRECTS or not location:
            raise FetchError(f"cannot fetch {shown(url)}", why=f"the server answers {status}")
        url = _next(url, location, remote)
    raise FetchError(f"cannot fetch {shown(remote.url)}", why=f"more than {REDIRECTS_MAX} redirections")


def _next(url: str, location: str, remote: Remote) -> str:
    following = urljoin(url, location)
    if not following.startswith("https://") and not (following.startswith("http://") and remote.sha256):
        raise FetchError(f"cannot fetch {shown(url)}", why=f"it leads to {shown(following)}, which nothing vouches for")
    return following


def _get(url: SplitResult, authority_pem: str, deadline: float) -> tuple[int, str, bytes]:
    host = url.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, url.port, timeout=TIMEOUT_S, context=_context(authority_pem))
        if url.scheme == "https"
        else http.client.HTTPConnection(host, url.port, timeout=TIMEOUT_S)
    )
    try:
        connection.request("GET", f"{url.path or '/'}{f'?{url.query}' if url.query else ''}")
        response = connection.getresponse()
        data = b""
        while chunk := response.read1(65536):
            data += chunk
            if len(data) > paths.DOCUMENTS_BYTES_MAX:
                raise ValueError(f"it is larger than {paths.DOCUMENTS_BYTES_MAX} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"it took longer than {WHOLE_TIMEOUT_S:.0f} s")
        return response.status, response.headers.get("Location", ""), data
    finally:
        connection.close()


def _context(authority_pem: str) -> ssl.SSLContext:
    if authority_pem:
        return ssl.create_default_context(cadata=authority_pem)
    return ssl.create_default_context(cafile=paths.PUBLIC_AUTHORITIES)


def explain(error: Exception) -> str:
    """Why it failed, in words; with the node's clock where that may be the cause."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"the server's certificate is not accepted: {error.verify_message}"
        if error.verify_code in _CLOCK_ERRORS:
            now = pki.clock(datetime.datetime.now(datetime.UTC))
            return f"{said}; the node's clock says {now}: if that is wrong, set the hardware's clock"
        return said
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def _checked(data: bytes, remote: Remote) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if remote.sha256 and found != remote.sha256:
        raise FetchError(
            f"what {shown(remote.url)} gives is not what basalt.config.sha256 is of",
            why=f"it has the checksum {found}, {remote.sha256} was to be had",
        )
    return data
