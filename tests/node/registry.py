"""A container registry for tests: Debian's docker-registry on a port of the host's 127.0.0.1, over TLS of an authority of its own.

A guest reaches it as 10.0.2.2, through QEMU's user-mode network. :class:`Endpoint` is anything that is spoken to as a registry is, be
it the registry itself or what stands in front of it (:mod:`tests.node.registry_proxy`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.node.images import TAG, Image
from tests.node.registry_access import HERE, THERE, Authority, Credentials, server_files
from tests.node.registry_tokens import TokenServer
from tests.node.registry_tools import Tools

_START_S = 30.0
_ANSWER_S = 30.0
_TAIL_LINES = 40
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
_GRAVE = re.compile(r"level=(fatal|panic)|response\.status=5")
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


@dataclass(frozen=True)
class Answer:
    """What a registry answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Endpoint:
    """Where a registry is spoken to, and the tests' own ways to do it.

    Names of images have no registry in them: ``busybox:1``, ``team/busybox@sha256:...``.

    :param credentials: what is asked for here; None where everybody may.
    """

    tools: Tools
    authority: Authority
    port: int
    credentials: Credentials | None = None

    @property
    def here(self) -> str:
        """The registry's name on the host."""
        return f"{HERE}:{self.port}"

    @property
    def there(self) -> str:
        """The registry's name in a guest."""
        return f"{THERE}:{self.port}"

    def spoken_to_by(self, credentials: Credentials | None) -> Endpoint:
        """The same place, for somebody else; None for somebody who shows no credentials."""
        return Endpoint(self.tools, self.authority, self.port, credentials)

    def document(self, *registries: str, fallback: bool = False) -> dict[str, Any]:
        """The fields of a RegistryConfig with which a node pulls from here: images that are called :attr:`there` ``/NAME``, and those
        of *registries*, such as :data:`tests.node.registry_access.NAME`.

        :param fallback: whether those registries themselves are asked in the end.
        """
        endpoint = f"https://{self.there}"
        found: dict[str, Any] = {
            "mirrors": [{"registry": name, "endpoints": [endpoint], "fallback": fallback} for name in registries],
            "authorities": [{"host": self.there, "certificate": self.authority.pem}],
        }
        if self.credentials:
            access = {"username": self.credentials.username, "password": self.credentials.password}
            found["auth"] = [{"host": self.there, **access}]
        return found

    def push(self, image: Image, name: str) -> str:
        """Put *image* into the registry; the digest of its manifest there.

        :raises CommandError: it would not be taken.
        """
        digest = self.tools.fresh("digest")
        words = ["--digestfile", self.tools.inside(digest), image.place, self._place(name)]
        self._copy("dest", *words)
        return digest.read_text().strip()

    def pull(self, name: str, *, timeout_s: float | None = None) -> Image:
        """Fetch an image with skopeo.

        :param timeout_s: when skopeo gives up.
        :raises CommandError: with what skopeo said.
        """
        image = Image(self.tools, self.tools.fresh("pulled"))
        self._copy("src", self._place(name), image.place, timeout_s=timeout_s)
        return image

    def _copy(self, side: str, *words: str, timeout_s: float | None = None) -> None:
        who = self.credentials
        options = [f"--{side}-cert-dir", self.tools.inside(self.authority.directory)]
        options += [f"--{side}-creds", who.words] if who else [f"--{side}-no-creds"]
        limit = ["--command-timeout", f"{timeout_s}s"] if timeout_s else []
        self.tools.run("skopeo", *limit, "copy", "--quiet", *options, *words)

    def _place(self, name: str) -> str:
        return f"docker://{self.here}/{name}"

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.pem)

    def ask(self, method: str, path: str, *, accept: Sequence[str] = ()) -> Answer:
        """One request; *path* begins with ``/v2/``."""
        headers = [("Accept", kind) for kind in accept]
        if self.credentials:
            headers.append(("Authorization", self.credentials.header))
        connection = http.client.HTTPSConnection(HERE, self.port, timeout=_ANSWER_S, context=self._trust)
        with contextlib.closing(connection):
            connection.putrequest(method, path)
            for header in headers:
                connection.putheader(*header)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def digest(self, name: str) -> str:
        """The digest that a name stands for; empty when it stands for none."""
        answer = self._manifest("HEAD", name)
        return str(answer.headers["Docker-Content-Digest"]) if answer.status == http.HTTPStatus.OK else ""

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest that a name stands for."""
        answer = self._manifest("GET", name)
        assert answer.status == http.HTTPStatus.OK, answer
        manifest: dict[str, Any] = json.loads(answer.body)
        return manifest

    def delete(self, name: str) -> None:
        """Delete the manifest that a name stands for, and so all its names."""
        repository, _ = split(name)
        answer = self.ask("DELETE", f"/v2/{repository}/manifests/{self.digest(name)}")
        assert answer.status == http.HTTPStatus.ACCEPTED, answer

    def tags(self, repository: str) -> list[str]:
        """All tags of *repository*, signatures among them."""
        answer = self.ask("GET", f"/v2/{repository}/tags/list")
        return sorted(json.loads(answer.body).get("tags") or ()) if answer.status == http.HTTPStatus.OK else []

    def _manifest(self, method: str, name: str) -> Answer:
        repository, reference = split(name)
        return self.ask(method, f"/v2/{repository}/manifests/{reference}", accept=_MANIFESTS)


def split(name: str) -> tuple[str, str]:
    """Repository, and tag or digest, of an image's name without a registry."""
    repository, separator, digest = name.partition("@")
    if separator:
        return repository.partition(":")[0], digest
    repository, _, tag = name.partition(":")
    return repository, tag or TAG


@dataclass(frozen=True)
class Registry(Endpoint):
    """A registry that runs. *log* has all that it says, every request among it."""

    log: Path = field(kw_only=True)


_running: list[Registry] = []


def stories() -> list[tuple[str, str]]:
    """What each registry that runs has said last, by its name: for the report of a failed test."""
    return [(registry.here, _tail(registry.log)) for registry in _running]


def _tail(log: Path) -> str:
    # Of the up to four lines that a request has, the one that every server writes says enough unless the registry itself is at fault.
    lines = log.read_text(errors="replace").splitlines()
    told = [line for line in lines if not line.startswith("time=") or _GRAVE.search(line)]
    return "\n".join([f"whole log: {log}", *told[-_TAIL_LINES:]])


@contextlib.contextmanager
def running(
    tools: Tools,
    *,
    authority: Authority | None = None,
    credentials: Credentials | None = None,
    accepted: Sequence[Credentials] = (),
    mirror_of: Endpoint | None = None,
    tokens: TokenServer | None = None,
) -> Iterator[Registry]:
    """A registry of its own, empty, until the block ends.

    :param authority: who signs its certificate; a new one where left out.
    :param credentials: what it asks for; it lets everybody in without them.
    :param accepted: further ones that it takes.
    :param mirror_of: it has nothing of its own and cannot be pushed to: what is asked of it, it fetches from there, and keeps a copy.
        That place must let everybody in: this registry has no basic authentication for where it fetches from, only tokens.
    :param tokens: who gives out the tokens that it then asks for, instead of credentials.
    """
    directory = tools.fresh("registry")
    directory.mkdir()
    authority = authority or Authority.make(tools.fresh("authority"))
    certificate, key = server_files(authority, directory)
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "text"},
        "storage": {
            "filesystem": {"rootdirectory": tools.inside(directory / "storage")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        # Port 0: the kernel picks one that is free, and the log says which.
        "http": {
            "addr": f"{HERE}:0",
            "relativeurls": True,
            "secret": "shared by nobody",
            "tls": {"certificate": tools.inside(certificate), "key": tools.inside(key)},
        },
    }
    env = {}
    if credentials or accepted:
        everybody = [*([credentials] if credentials else []), *accepted]
        (directory / "htpasswd").write_text("".join(f"{each.username}:{each.hashed}\n" for each in everybody))
        config["auth"] = {"htpasswd": {"realm": "tests", "path": tools.inside(directory / "htpasswd")}}
    if tokens:
        bundle = directory / "tokens.crt"
        bundle.write_bytes(tokens.authority.identity.certificate_pem)
        config["auth"] = {"token": {**tokens.settings, "rootcertbundle": tools.inside(bundle)}}
    if mirror_of:
        assert not mirror_of.credentials, "a mirror cannot show basic credentials"
        config["proxy"] = {"remoteurl": f"https://{mirror_of.here}"}
        env["SSL_CERT_FILE"] = tools.inside(mirror_of.authority.directory / "ca.crt")
    (directory / "config.yml").write_text(json.dumps(config))  # YAML has JSON in it
    log = directory / "registry.log"
    with tools.started("docker-registry", "serve", tools.inside(directory / "config.yml"), log=log, env=env) as process:
        end = time.monotonic() + _START_S
        while not (found := _LISTENING.search(log.read_text(errors="replace"))):
            assert process.poll() is None and time.monotonic() < end, f"the registry does not start:\n{_tail(log)}"
            time.sleep(0.02)
        registry = Registry(tools, authority, int(found[1]), credentials, log=log)
        _running.append(registry)
        try:
            yield registry
        finally:
            _running.remove(registry)
    shutil.rmtree(directory / "storage", ignore_errors=True)
