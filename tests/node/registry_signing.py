"""Signatures on images, by cosign: with a key pair, without a transparency log and without anything else from the Internet.

A signature is an object of its own in the image's repository, under the tag ``sha256-DIGEST.sig``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.node.registry import Endpoint, split
from tests.node.registry_access import NAME
from tests.node.registry_tools import Tools

# Keys without a password; cosign would ask for one.
_ENVIRONMENT = {"COSIGN_PASSWORD": ""}


@dataclass(frozen=True)
class KeyPair:
    """A key pair of cosign's: ECDSA P-256. *stem* is the path of its two files without ``.key`` and ``.pub``."""

    tools: Tools
    stem: Path

    @classmethod
    def make(cls, tools: Tools) -> KeyPair:
        """A new one."""
        stem = tools.fresh("cosign")
        tools.run("cosign", "generate-key-pair", "--output-key-prefix", tools.inside(stem), env=_ENVIRONMENT)
        return cls(tools, stem)

    @property
    def public_pem(self) -> str:
        """The public key."""
        return self._file(".pub").read_text()

    def sign(self, endpoint: Endpoint, name: str, *, identity: str = "") -> str:
        """Sign the image that *name* stands for; its digest.

        :param identity: how the signature calls the image: as nodes do, ``registry.test/REPOSITORY``, unless told otherwise.
        :raises CommandError: with what cosign said.
        """
        repository, _ = split(name)
        digest = endpoint.digest(name)
        assert digest, f"there is no {name} to sign"
        called = identity or f"{NAME}/{repository}"
        words = ["--tlog-upload=false", "--yes", "--sign-container-identity", called]
        self._cosign("sign", endpoint, "--key", self._file(".key"), *words, f"{endpoint.here}/{repository}@{digest}")
        return digest

    def verify(self, endpoint: Endpoint, name: str) -> None:
        """Insist that the image that *name* stands for is signed with this key.

        :raises CommandError: it is not, with what cosign said.
        """
        repository, _ = split(name)
        place = f"{endpoint.here}/{repository}@{endpoint.digest(name)}"
        self._cosign("verify", endpoint, "--key", self._file(".pub"), "--insecure-ignore-tlog", place)

    def _file(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def _cosign(self, order: str, endpoint: Endpoint, option: str, key: Path, *words: str) -> None:
        access = ["--registry-cacert", self.tools.inside(endpoint.authority.directory / "ca.crt")]
        if who := endpoint.credentials:
            access += ["--registry-username", who.username, "--registry-password", who.password]
        self.tools.run("cosign", order, option, self.tools.inside(key), *access, *words, env=_ENVIRONMENT)


def signature_of(name: str, digest: str) -> str:
    """The name of the signatures on *digest* in the repository of *name*."""
    return f"{split(name)[0]}:{digest.replace(':', '-')}.sig"
