"""Whether an image is signed by whom the configuration names. It is signed, or it is not pulled: nothing here warns and goes on.

There are four steps, and none believes what comes before it::

    name:tag      → digest     computed from the manifest's bytes; whoever pulls must pull that digest, not the tag
    digest        → .sig       from the same repository; nobody vouches for this manifest, it only says where to look
    .sig          → payload    its digest is computed too; then one of the keys must have signed exactly these bytes
    payload       → digest     only now read: it must be about the digest of the first step

``critical.identity`` is not compared: cosign's specification says that it is ignored, and cosign does so. It is what the signer called the
image, and an image is signed under the name that it is pushed to and pulled under another, or copied together with its signatures. So a
key vouches for content, wherever it lies: whoever may push can pass off one image signed with it as another, or an old one as new
(docs/decisions/image-signatures.md).

Endpoints are asked in containerd's order, and the next one where one has no signature that counts: a mirror may lack them.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from basalt import publickeys
from basalt.config.documents import RegistryConfig
from basalt.errors import RefusedError
from basalt.reference import Reference, closeness, parse
from machined.runtime.cosign import PAYLOAD_BYTES_MAX, Signature, claimed, signature_tag, signatures_in
from machined.runtime.exchange import WAY_REMEDY
from machined.runtime.registry import RegistryError, Repository, digest_of, repositories

if TYPE_CHECKING:
    from basalt.publickeys import PublicKey

WHOLE_TIMEOUT_S = 90.0  # for everything: several endpoints, each with several answers


class Policy(Struct, frozen=True):
    """What the configuration asks of an image. *keys*: PEM."""

    images: str
    keys: tuple[str, ...]


class Verified(Struct, frozen=True):
    """What is signed. *keys*: the ids of those configured keys that have signed it (see basalt.publickeys.key_id)."""

    digest: str
    keys: tuple[str, ...]


class Reason(enum.IntEnum):
    """Why an image is not taken. Of what several endpoints say, the highest is meant: it got the furthest."""

    NOT_FOUND = 1
    UNSIGNED = 2
    UNREACHABLE = 3
    DAMAGED = 4
    OTHER_KEY = 5
    OTHER_IMAGE = 6


class SignatureError(RefusedError):
    """An image is not taken, because it is not known to be signed."""

    def __init__(self, what: str, reason: Reason, *, why: str, remedy: str) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.reason = reason


class Problem(Struct, frozen=True):
    """What one endpoint's answer, or one signature, lacks."""

    reason: Reason
    why: str
    remedy: str = ""


class Signatures:
    """What the configuration asks of images, and whether they have it.

    :param config: the registries' configuration in force.
    """

    def __init__(self, config: Callable[[], RegistryConfig | None]) -> None:
        self._config = config

    def policy_for(self, reference: str) -> Policy | None:
        """What is asked of the image of this full name; None where it may be pulled as it is.

        :raises ValueError: *reference* is no name.
        """
        return _policy(self._config(), parse(reference))

    async def verified(self, reference: str) -> Verified | None:
        """What of an image is signed as the configuration asks; None where it asks nothing.

        The digest is that of a manifest or, of an image for several platforms, of its index. Only what is pulled by this digest is what
        was verified.

        :param reference: a full name, with tag or digest.
        :raises SignatureError: it is not signed so, or nobody could be asked.
        :raises ValueError: *reference* is no name.
        """
        config, name = self._config(), parse(reference)
        policy = _policy(config, name)
        if policy is None:
            return None
        keys = await asyncio.to_thread(_load, policy.keys)
        try:
            async with asyncio.timeout(WHOLE_TIMEOUT_S):
                return await _Errand(name, policy, keys, repositories(config, name)).run()
        except TimeoutError:
            problem = Problem(Reason.UNREACHABLE, f"no answer within {WHOLE_TIMEOUT_S:.0f} s", WAY_REMEDY)
            raise _error(name, [problem]) from None


def _policy(config: RegistryConfig | None, name: Reference) -> Policy | None:
    signatures = config.signatures if config else ()
    closest = max(signatures, key=lambda each: closeness(each.images, name.name), default=None)
    if closest is None or not closeness(closest.images, name.name):
        return None
    return Policy(closest.images, closest.keys)


def _load(keys: Sequence[str]) -> dict[str, PublicKey]:
    loaded = [publickeys.load(pem) for pem in keys]
    return {publickeys.key_id(key): key for key in loaded}


def _error(name: Reference, problems: Sequence[Problem]) -> SignatureError:
    worst = max(problems, key=lambda problem: problem.reason)
    why = "; ".join(dict.fromkeys(problem.why for problem in problems))
    return SignatureError(f"{name} is not known to be signed", worst.reason, why=why, remedy=worst.remedy)


class _Errand:
    """One image, looked at once."""

    def __init__(
        self, name: Reference, policy: Policy, keys: dict[str, PublicKey], asked: Sequence[Repository]
    ) -> None:
        self._name = name
        self._policy = policy
        self._keys = keys
        self._asked = asked

    async def run(self) -> Verified:
        digest = self._name.digest or await self._resolved()
        problems = []
        for repository in self._asked:
            try:
                found = await self._look(repository, digest)
            except RegistryError as error:
                found = Problem(Reason.UNREACHABLE, str(error), error.remedy)
            if isinstance(found, Verified):
                return found
            problems.append(found)
        raise _error(self._name, problems)

    async def _resolved(self) -> str:
        """The digest that the tag stands for. As with containerd, the first endpoint that has it says so."""
        problems = []
        for repository in self._asked:
            try:
                manifest = await repository.manifest(self._name.tag)
            except RegistryError as error:
                problems.append(Problem(Reason.UNREACHABLE, str(error), error.remedy))
                continue
            if manifest is not None:
                return digest_of(manifest)
            why = f"{repository.url} has no such image"
            problems.append(Problem(Reason.NOT_FOUND, why, "look at the image's name and tag"))
        raise _error(self._name, problems)

    async def _look(self, repository: Repository, digest: str) -> Verified | Problem:
        """What *repository* has in signatures on *digest*."""
        manifest = await repository.manifest(signature_tag(digest))
        try:
            signatures = signatures_in(manifest) if manifest is not None else []
        except ValueError as error:
            return _damaged(f"what {repository.url} has as the signatures on {digest} cannot be read: {error}")
        if not signatures:
            remedy = f"sign it: cosign sign --key KEY --tlog-upload=false {self._name.name}@{digest}"
            return Problem(Reason.UNSIGNED, f"{repository.url} has no signature on {digest}", remedy)
        payloads: dict[str, bytes | Problem] = {}
        problems, signers = [], []
        for signature in signatures:
            if signature.payload not in payloads:
                payloads[signature.payload] = await self._payload(repository, signature.payload)
            payload = payloads[signature.payload]
            found = await asyncio.to_thread(self._judge, repository, digest, signature, payload)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                signers += found
        if signers:
            return Verified(digest, tuple(dict.fromkeys(signers)))
        return max(problems, key=lambda problem: problem.reason)

    async def _payload(self, repository: Repository, digest: str) -> bytes | Problem:
        try:
            payload = await repository.blob(digest, PAYLOAD_BYTES_MAX)
        except RegistryError as error:
            return Problem(Reason.UNREACHABLE, str(error), error.remedy)
        return payload if payload is not None else _damaged(f"{repository.url} lacks what was signed, {digest}")

    def _judge(
        self, repository: Repository, digest: str, signature: Signature, payload: bytes | Problem
    ) -> list[str] | Problem:
        """The ids of the keys that made *signature*, if it is on *digest*."""
        if isinstance(payload, Problem):
            return payload
        signers = [name for name, key in self._keys.items() if publickeys.verifies(key, signature.value, payload)]
        if not signers:
            why = f"{repository.url} has signatures on {digest}, but by none of the keys for {self._policy.images}"
            remedy = "sign it with one of those keys, or give the key that signed it in the RegistryConfig (signatures)"
            return Problem(Reason.OTHER_KEY, why, remedy)
        try:
            about = claimed(payload)
        except ValueError as error:
            return _damaged(f"what was signed at {repository.url} says nothing about an image: {error}")
        if about != digest:
            why = f"what {repository.url} has as the signature on {digest} is on another image, {about}"
            return Problem(Reason.OTHER_IMAGE, why, f"look at who may push to {self._name.name}")
        return signers


def _damaged(why: str) -> Problem:
    return Problem(Reason.DAMAGED, why, "look at who may push there, and at the way to it; then sign the image again")
