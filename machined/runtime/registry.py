"""Manifests and small blobs of a registry, for nothing but signatures: images themselves are containerd's business.

OCI distribution specification 1.1 over HTTP, with what containerd does besides: mirrors in their order, ``ns`` for a mirror that stands in
for several registries, and tokens (https://distribution.github.io/distribution/spec/auth/token/). One :class:`Repository` is one
repository at one of its endpoints, for the length of one errand.

What arrives is believed only as far as its digest goes. A header says no digest here: it is computed from the bytes.

Credentials go to the host that they are named for, and to the token server that this host names. Neither a redirection to somewhere
else nor anything without TLS gets them, unless the endpoint itself is configured as ``http://``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec
from msgspec import Struct

from basalt.config.documents import RegistryAuth, RegistryConfig
from basalt.errors import BasaltError
from basalt.reference import Reference
from machined.registries import SPOKEN_TO, Endpoint, endpoints
from machined.runtime import exchange
from machined.runtime.exchange import Answer, ExchangeError
from machined.sources.fetch import shown

MANIFEST_BYTES_MAX = (
    4 * 1024 * 1024
)  # what registries have to take at least (distribution specification, "Pushing Manifests")
TOKEN_BYTES_MAX = 64 * 1024
REDIRECTS_MAX = 5
CLIENT_ID = "basalt"  # whom a token server hears asking
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)

CREDENTIALS_REMEDY = "give its credentials in a RegistryConfig (auth)"
DAMAGE_REMEDY = "the registry or the way to it damages data; it is asked again at the next try"

_NOT_TAKEN = "it does not take the credentials that it got"
_REDIRECTS = (301, 302, 303, 307, 308)
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
# A challenge (RFC 9110, section 11.6.1): its scheme, or one of its parameters.
_PART = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+)))?")


class RegistryError(BasaltError):
    """An endpoint could not be asked, or what it says is of no use. *what* is the address."""


class _Token(Struct, frozen=True):
    token: str = ""
    access_token: str = ""


def digest_of(data: bytes) -> str:
    """The digest of a manifest or blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def challenges(headers: list[str]) -> dict[str, dict[str, str]]:
    """What ``WWW-Authenticate`` asks for: parameters by scheme, in lower case; the first of a kind counts."""
    found: dict[str, dict[str, str]] = {}
    for header in headers:
        parameters: dict[str, str] = {}
        for name, quoted, plain in _PART.findall(header):
            if quoted or plain:
                parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
            else:
                parameters = found.setdefault(name.lower(), {})
    return found


def repositories(config: RegistryConfig | None, reference: Reference) -> list[Repository]:
    """Where the repository of *reference* is asked for something, in this order."""
    auth = {SPOKEN_TO.get(each.host, each.host): each for each in (config.auth if config else ())}
    auth |= {each.host: each for each in (config.auth if config else ())}
    return [Repository(endpoint, reference, auth.get(endpoint.host)) for endpoint in endpoints(config, reference.host)]


class Repository:
    """A repository at one endpoint. All methods raise :class:`RegistryError`."""

    def __init__(self, endpoint: Endpoint, reference: Reference, auth: RegistryAuth | None) -> None:
        self.url = shown(endpoint.url)
        self._endpoint = endpoint
        self._auth = auth
        self._root = f"{endpoint.root}/{reference.path}"
        self._scope = f"repository:{reference.path}:pull"
        own = endpoint.host in (reference.host, SPOKEN_TO.get(reference.host))
        self._query = "" if own else f"?{urlencode({'ns': reference.host})}"
        self._authorization = ""

    async def manifest(self, name: str) -> bytes | None:
        """The manifest or index of a tag or digest; None where there is none."""
        accept = {"Accept": ", ".join(MANIFEST_TYPES)}
        data = await self._get(f"/manifests/{name}", accept, MANIFEST_BYTES_MAX)
        return data if data is None or ":" not in name else self._checked(data, name)

    async def blob(self, digest: str, most_bytes: int) -> bytes | None:
        """A blob; None where there is none."""
        data = await self._get(f"/blobs/{digest}", {}, most_bytes)
        return None if data is None else self._checked(data, digest)

    def _checked(self, data: bytes, digest: str) -> bytes:
        if digest_of(data) != digest:
            raise RegistryError(self.url, why=f"what it has as {digest} is {digest_of(data)}", remedy=DAMAGE_REMEDY)
        return data

    async def _get(self, path: str, headers: Mapping[str, str], most_bytes: int) -> bytes | None:
        url = f"{self._root}{path}{self._query}"
        answer = await self._follow(url, headers, most_bytes)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            await self._authorize(answer)
            answer = await self._follow(url, headers, most_bytes)
        if answer.status == HTTPStatus.OK:
            return answer.body
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        why = _NOT_TAKEN if answer.status == HTTPStatus.UNAUTHORIZED and self._auth else f"it answers {answer.words}"
        remedy = CREDENTIALS_REMEDY if answer.status in _REFUSALS else exchange.WAY_REMEDY
        raise RegistryError(self.url, why=why, remedy=remedy)

    async def _follow(self, url: str, headers: Mapping[str, str], most_bytes: int) -> Answer:
        """What *url* leads to: blobs may lie elsewhere."""
        for _ in range(REDIRECTS_MAX):
            own = _origin(url) == _origin(self._endpoint.url)
            shown_there = {"Authorization": self._authorization} if self._authorization and own else {}
            answer = await self._ask(url, headers={**headers, **shown_there}, most_bytes=most_bytes)
            location = answer.headers.get("Location", "")
            if answer.status not in _REDIRECTS or not location:
                return answer
            url = self._allowed(location, url, "it leads to")
        raise RegistryError(self.url, why=f"more than {REDIRECTS_MAX} redirections", remedy=exchange.WAY_REMEDY)

    def _allowed(self, url: str, base: str, what: str) -> str:
        """*url*, seen from *base*, where it is no way out of TLS."""
        plain = self._endpoint.url.startswith("http://")
        try:
            found = urlsplit(urljoin(base, url))._replace(fragment="").geturl()
        except ValueError:
            found = ""
        if not found.startswith(("https://", "http://") if plain else "https://"):
            why = f"{what} {shown(found)}, which is not https" if found else f"{what} no address"
            raise RegistryError(self.url, why=why, remedy=exchange.WAY_REMEDY)
        return found

    async def _ask(
        self, url: str, *, headers: Mapping[str, str], most_bytes: int, method: str = "GET", body: bytes = b""
    ) -> Answer:
        # containerd, too, lets an endpoint's authorities vouch for the places that this endpoint names.
        authorities = self._endpoint.authorities
        try:
            return await exchange.ask(
                url, authorities=authorities, method=method, headers=headers, body=body, most_bytes=most_bytes
            )
        except ExchangeError as error:
            elsewhere = "" if _origin(url) == _origin(self._endpoint.url) else f"{'://'.join(_origin(url))}: "
            raise RegistryError(self.url, why=f"{elsewhere}{error.why}", remedy=error.remedy) from error

    async def _authorize(self, refusal: Answer) -> None:
        """Do what a refusal asks for."""
        asked = challenges(refusal.headers.get_all("WWW-Authenticate") or [])
        basic = self._basic()
        if "bearer" in asked:
            self._authorization = f"Bearer {await self._token(asked['bearer'])}"
        elif "basic" in asked and basic and self._authorization != basic:
            self._authorization = basic
        else:
            wanted = "it wants a user name and a password" if "basic" in asked else f"it answers {refusal.words}"
            why = _NOT_TAKEN if self._authorization else wanted
            raise RegistryError(self.url, why=why, remedy=CREDENTIALS_REMEDY)

    def _basic(self) -> str:
        if self._auth is None or self._auth.username is None or self._auth.password is None:
            return ""
        words = f"{self._auth.username}:{self._auth.password}"
        return f"Basic {base64.b64encode(words.encode()).decode()}"

    async def _token(self, challenge: Mapping[str, str]) -> str:
        """A token for pulling; for everybody's where there are no credentials."""
        realm = self._allowed(challenge.get("realm", ""), self._endpoint.url, "it names as its token server")
        wanted = [("service", challenge["service"])] if challenge.get("service") else []
        scopes = challenge.get("scope", "").split() or [self._scope]
        if self._auth and self._auth.identity_token is not None:
            form = [*wanted, ("scope", " ".join(scopes)), ("client_id", CLIENT_ID), ("grant_type", "refresh_token")]
            answer = await self._ask(
                realm,
                method="POST",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                body=urlencode([*form, ("refresh_token", self._auth.identity_token)]).encode(),
                most_bytes=TOKEN_BYTES_MAX,
            )
        else:
            query = urlencode([*wanted, *(("scope", scope) for scope in scopes)])
            basic = self._basic()
            answer = await self._ask(
                f"{realm}{'&' if urlsplit(realm).query else '?'}{query}",
                headers={"Authorization": basic} if basic else {},
                most_bytes=TOKEN_BYTES_MAX,
            )
        return self._token_in(answer, shown(realm))

    def _token_in(self, answer: Answer, server: str) -> str:
        if answer.status != HTTPStatus.OK:
            remedy = CREDENTIALS_REMEDY if answer.status in _REFUSALS else exchange.WAY_REMEDY
            raise RegistryError(self.url, why=f"its token server {server} answers {answer.words}", remedy=remedy)
        try:
            found = msgspec.json.decode(answer.body, type=_Token)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            why = f"what its token server {server} answers is no token"
            raise RegistryError(self.url, why=why, remedy=exchange.WAY_REMEDY) from error
        token = found.token or found.access_token
        if re.fullmatch("[!-~]+", token) is None:  # it becomes a part of a header
            why = f"its token server {server} gives no token"
            raise RegistryError(self.url, why=why, remedy=exchange.WAY_REMEDY)
        return token


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
