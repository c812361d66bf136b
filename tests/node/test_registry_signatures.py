"""Images that have to be signed, by cosign in a real registry: what counts, and that cosign itself says the same.

No node is booted here: what a node runs is asked on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from basalt.config import parse
from basalt.config.documents import RegistryConfig
from machined.runtime import exchange
from machined.runtime.signatures import Reason, SignatureError, Signatures, Verified
from osbuild.sandbox import CommandError
from tests.node import registry as registries
from tests.node import registry_tokens
from tests.node.images import Images
from tests.node.registry import Endpoint, Registry
from tests.node.registry_access import HERE, NAME, NODE, OTHER, THERE
from tests.node.registry_faults import Corrupt, Fault, HangUp, Refuse, Stall, Truncate
from tests.node.registry_proxy import FaultyRegistry
from tests.node.registry_signing import KeyPair, signature_of
from tests.node.registry_tools import Tools

pytestmark = pytest.mark.node


@dataclass(frozen=True)
class Keys:
    """Two key pairs; nodes know the first one."""

    ours: KeyPair
    other: KeyPair


@pytest.fixture(scope="module")
def keys(registry_tools: Tools) -> Keys:
    return Keys(KeyPair.make(registry_tools), KeyPair.make(registry_tools))


@pytest.fixture(scope="module")
def signed(registry: Registry, images: Images, keys: Keys) -> str:
    """The digest of team/signed:1, which is signed with our key."""
    registry.push(images.busybox, "team/signed:1")
    return keys.ours.sign(registry, "team/signed:1")


def config(endpoint: Endpoint, *keys: KeyPair, after: Endpoint | None = None) -> RegistryConfig:
    """A node's configuration: images of registry.test come from *endpoint*, and one of *keys* has to have signed them.

    :param after: another place, with the same authority, that is asked next.
    """
    fields = json.loads(json.dumps(endpoint.document(NAME)).replace(THERE, HERE))
    if after:
        fields["mirrors"][0]["endpoints"].append(f"https://{after.here}")
        fields["authorities"][0]["host"] = HERE
    fields["signatures"] = [{"images": NAME, "keys": [key.public_pem for key in keys]}]
    text = json.dumps({"apiVersion": "basalt.dev/v1alpha1", "kind": "RegistryConfig", **fields})
    read = parse(text.encode(), "registry.yaml").registry
    assert read is not None
    return read


def verified(endpoint: Endpoint, name: str, *keys: KeyPair, after: Endpoint | None = None) -> Verified:
    wanted = config(endpoint, *keys, after=after)
    found = asyncio.run(Signatures(lambda: wanted).verified(f"{NAME}/{name}"))
    assert found is not None
    return found


def refused(endpoint: Endpoint, name: str, *keys: KeyPair) -> SignatureError:
    with pytest.raises(SignatureError) as caught:
        verified(endpoint, name, *keys)
    return caught.value


def test_a_signature_by_way_of_a_mirror(registry_tools: Tools, registry: Registry, signed: str, keys: Keys) -> None:
    """One that has an authority of its own, and wants a password."""
    with registries.running(registry_tools, credentials=NODE, mirror_of=registry) as mirror:
        assert mirror.authority.pem != registry.authority.pem
        found = verified(mirror, "team/signed:1", keys.ours)
        assert found.digest == signed and len(found.keys) == 1
        assert verified(mirror, f"team/signed@{signed}", keys.ours) == found
        error = refused(mirror.spoken_to_by(OTHER), "team/signed:1", keys.ours)
        assert "it does not take the credentials" in error.why and "(auth)" in error.remedy
        assert "wants a user name" in refused(mirror.spoken_to_by(None), "team/signed:1", keys.ours).why
        stranger = Endpoint(registry_tools, registry.authority, mirror.port, NODE)
        error = refused(stranger, "team/signed:1", keys.ours)
        assert "certificate is not accepted" in error.why and "(authorities)" in error.remedy


def test_unsigned(registry: Registry, images: Images, keys: Keys) -> None:
    digest = registry.push(images.unprivileged, "team/unsigned:1")
    error = refused(registry, "team/unsigned:1", keys.ours)
    assert error.reason is Reason.UNSIGNED and digest in error.why
    assert error.remedy == f"sign it: cosign sign --key KEY --tlog-upload=false {NAME}/team/unsigned@{digest}"
    with pytest.raises(CommandError, match="no signatures found"):
        keys.ours.verify(registry, "team/unsigned:1")
    assert refused(registry, "team/missing:1", keys.ours).reason is Reason.NOT_FOUND


def test_by_another_key(registry: Registry, signed: str, keys: Keys) -> None:
    assert refused(registry, "team/signed:1", keys.other).reason is Reason.OTHER_KEY
    with pytest.raises(CommandError, match="invalid signature"):
        keys.other.verify(registry, "team/signed:1")


def test_two_keys_while_one_takes_the_others_place(registry: Registry, images: Images, keys: Keys) -> None:
    registry.push(images.busybox, "team/rotated:1")
    digest = keys.ours.sign(registry, "team/rotated:1")
    before = verified(registry, "team/rotated:1", keys.ours, keys.other)
    keys.other.sign(registry, "team/rotated:1")
    both = verified(registry, "team/rotated:1", keys.ours, keys.other)
    after = verified(registry, "team/rotated:1", keys.other)
    assert {found.digest for found in (before, both, after)} == {digest}
    assert set(both.keys) == {*before.keys, *after.keys} and before.keys != after.keys


def test_the_tag_was_moved_after_it_was_signed(registry: Registry, images: Images, keys: Keys) -> None:
    registry.push(images.busybox, "team/moved:1")
    before = keys.ours.sign(registry, "team/moved:1")
    after = registry.push(images.unprivileged, "team/moved:1")
    error = refused(registry, "team/moved:1", keys.ours)
    assert error.reason is Reason.UNSIGNED and after in error.why
    assert verified(registry, f"team/moved@{before}", keys.ours).digest == before


def test_the_signature_of_another_image(registry: Registry, images: Images, signed: str, keys: Keys) -> None:
    """Somebody who may push has copied it."""
    victim = registry.push(images.unprivileged, "team/signed:2")
    places = [f"docker://{registry.here}/{signature_of('team/signed', digest)}" for digest in (signed, victim)]
    certificates = registry.tools.inside(registry.authority.directory)
    options = [f"--{side}-cert-dir={certificates}" for side in ("src", "dest")]
    registry.tools.run("skopeo", "copy", "--quiet", *options, "--preserve-digests", *places)
    error = refused(registry, "team/signed:2", keys.ours)
    assert error.reason is Reason.OTHER_IMAGE and signed in error.why
    with pytest.raises(CommandError, match="invalid or missing digest in claim"):
        keys.ours.verify(registry, "team/signed:2")


def test_what_the_signer_called_the_image_does_not_matter(registry: Registry, images: Images, keys: Keys) -> None:
    """To cosign neither."""
    registry.push(images.busybox, "team/called:1")
    digest = keys.ours.sign(registry, "team/called:1", identity="build.internal/else")
    assert verified(registry, "team/called:1", keys.ours).digest == digest
    keys.ours.verify(registry, "team/called:1")


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (Corrupt(on="/blobs/", at_least=1), Reason.UNREACHABLE, "is sha256:"),
        (Corrupt(on=r"\.sig", at_least=1, at=0), Reason.DAMAGED, "it is no manifest"),
        (Corrupt(on="/manifests/1", at_least=1), Reason.UNSIGNED, "no signature on"),
        (Truncate(on="/blobs/", at_least=1), Reason.UNREACHABLE, "the connection ended within the answer"),
        (HangUp(), Reason.UNREACHABLE, "the connection ended within the answer"),
        (Refuse(), Reason.UNREACHABLE, "it answers 500 Internal Server Error"),
        (Refuse(status=429, on=r"\.sig"), Reason.UNREACHABLE, "it answers 429 Too Many Requests"),
        (Refuse(status=404, on=r"\.sig"), Reason.UNSIGNED, "no signature on"),
        (Refuse(status=404, on="/blobs/"), Reason.DAMAGED, "lacks what was signed"),
        (Refuse(status=401), Reason.UNREACHABLE, "it wants a user name and a password"),
        (Stall(on="/manifests/", at_least=1), Reason.UNREACHABLE, "no answer in time"),
    ],
    ids=str,
)
def test_what_goes_wrong_on_the_way_is_no_signature(
    faulty_registry: FaultyRegistry,
    signed: str,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    reason: Reason,
    words: str,
) -> None:
    if isinstance(fault, Stall):
        monkeypatch.setattr(exchange, "TIMEOUT_S", 1.0)
    with faulty_registry.having(fault):
        error = refused(faulty_registry, "team/signed:1", keys.ours)
    assert error.reason is reason and words in error.why
    assert verified(faulty_registry, "team/signed:1", keys.ours).digest == signed


def test_a_signature_is_looked_for_at_the_next_endpoint(
    registry_tools: Tools, registry: Registry, images: Images, signed: str, keys: Keys
) -> None:
    """A mirror that somebody fills by hand, and who forgot the signatures."""
    with registries.running(registry_tools, authority=registry.authority) as mirror:
        mirror.push(images.busybox, "team/signed:1")
        assert refused(mirror, "team/signed:1", keys.ours).reason is Reason.UNSIGNED
        assert verified(mirror, "team/signed:1", keys.ours, after=registry).digest == signed


@contextlib.contextmanager
def guarded_by_tokens(registry: Registry, tokens: registry_tokens.TokenServer) -> Iterator[Registry]:
    with registries.running(registry.tools, authority=registry.authority, mirror_of=registry, tokens=tokens) as guarded:
        yield guarded


def test_tokens_for_everybody(registry: Registry, signed: str, keys: Keys) -> None:
    with (
        registry_tokens.running(registry.authority, registry.tools.fresh("tokens")) as tokens,
        guarded_by_tokens(registry, tokens) as guarded,
    ):
        assert guarded.ask("GET", "/v2/team/signed/tags/list").status == 401
        assert verified(guarded, "team/signed:1", keys.ours).digest == signed
        (query,) = tokens.asked
        assert query == {"service": [registry_tokens.SERVICE], "scope": ["repository:team/signed:pull"]}


def test_tokens_for_whom_the_server_knows(registry: Registry, signed: str, keys: Keys) -> None:
    with (
        registry_tokens.running(registry.authority, registry.tools.fresh("tokens"), credentials=NODE) as tokens,
        guarded_by_tokens(registry, tokens) as guarded,
    ):
        assert verified(guarded.spoken_to_by(NODE), "team/signed:1", keys.ours).digest == signed
        for somebody in (None, OTHER):
            error = refused(guarded.spoken_to_by(somebody), "team/signed:1", keys.ours)
            assert f"its token server https://{HERE}:{tokens.port}/token answers 401" in error.why
            assert "(auth)" in error.remedy


def test_a_signature_that_was_signed_with_ed25519(registry: Registry, images: Images, keys: Keys) -> None:
    """cosign takes a key that somebody else has made."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem, stem = registry.tools.fresh("ed25519", ".pem"), registry.tools.fresh("cosign")
    pem.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    inside = registry.tools.inside
    words = ["--key", inside(pem), "--output-key-prefix", inside(stem)]
    registry.tools.run("cosign", "import-key-pair", *words, env={"COSIGN_PASSWORD": ""})
    key = KeyPair(registry.tools, stem)
    registry.push(images.busybox, "team/edwards:1")
    digest = key.sign(registry, "team/edwards:1")
    assert verified(registry, "team/edwards:1", key, keys.ours).digest == digest
