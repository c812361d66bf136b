"""Images that have to be signed: what is asked of which, what counts as a signature, and what a registry may do to one.

The registry is a fake one (:mod:`tests.unit.fake_registry`); tests/node/test_registry_signatures.py asks a real one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from basalt import publickeys
from basalt.config.documents import (
    RegistryAuth,
    RegistryAuthority,
    RegistryConfig,
    RegistryMirror,
    RegistrySignature,
)
from basalt.reference import closeness, parse
from machined.registries import endpoints
from machined.runtime import cosign, exchange, registry, signatures
from machined.runtime.cosign import claimed, signatures_in
from machined.runtime.registry import challenges
from machined.runtime.signatures import Reason, SignatureError, Signatures, Verified
from tests.node.registry_access import Authority
from tests.unit.fake_registry import (
    IMAGE,
    NAME,
    REPOSITORY,
    SIMPLE_SIGNING,
    Asked,
    FakeRegistry,
    Reply,
    Signer,
    digest_of,
    payload_of,
)

HEX = "0123456789abcdef" * 4
SIGNER, OTHER = Signer(), Signer()


# --- which images


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "docker.io/library/nginx", True),
        ("a.example", "a.example/app", True),
        ("a.example", "a.example:5000/app", False),
        ("a.example", "b.a.example/app", False),
        ("a.example/team", "a.example/team", True),
        ("a.example/team", "a.example/team/app", True),
        ("a.example/team", "a.example/teams", False),
        ("a.example/team/app", "a.example/team", False),
        ("docker.io/nginx", "docker.io/nginx/ingress", True),
        ("docker.io/nginx", "docker.io/library/nginx", True),
        ("docker.io/nginx", "docker.io/library/nginx2", False),
        ("a.example/nginx", "a.example/library/nginx", False),
    ],
)
def test_a_pattern_covers_whole_parts_of_a_name(pattern: str, name: str, expected: bool) -> None:
    assert bool(closeness(pattern, name)) is expected


def test_the_closest_pattern_counts() -> None:
    order = ["*", "docker.io", "docker.io/library", "docker.io/nginx", "docker.io/library/nginx"]
    found = [closeness(pattern, "docker.io/library/nginx") for pattern in order]
    assert found == sorted(set(found)) and found[0] > 0


def test_policy_of_an_image() -> None:
    entries = [("*", OTHER), (NAME, OTHER), (f"{NAME}/team", SIGNER), (f"{NAME}/other/thing", OTHER)]
    config = RegistryConfig(
        signatures=tuple(RegistrySignature(images=images, keys=(signer.pem,)) for images, signer in entries)
    )
    policies = Signatures(lambda: config)
    policy = policies.policy_for(f"{IMAGE}:1")
    assert policy is not None and (policy.images, policy.keys) == (f"{NAME}/team", (SIGNER.pem,))
    assert getattr(policies.policy_for(f"{NAME}/elsewhere@sha256:{HEX}"), "images", "") == NAME
    assert getattr(policies.policy_for("nginx"), "images", "") == "*"
    assert Signatures(lambda: RegistryConfig()).policy_for(f"{IMAGE}:1") is None
    assert Signatures(lambda: None).policy_for("nginx") is None


def test_nothing_is_asked_of_an_image_that_nobody_wants_signed() -> None:
    config = RegistryConfig(signatures=(RegistrySignature(images="a.example", keys=(SIGNER.pem,)),))
    assert asyncio.run(Signatures(lambda: config).verified("b.example/app:1")) is None


# --- keys


def pem_of(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


P384, P521 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
ED, RSA = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("key", "sign"),
    [
        (SIGNER.key, lambda data: SIGNER.key.sign(data, ec.ECDSA(hashes.SHA256()))),
        (P384, lambda data: P384.sign(data, ec.ECDSA(hashes.SHA256()))),
        (P384, lambda data: P384.sign(data, ec.ECDSA(hashes.SHA384()))),
        (P521, lambda data: P521.sign(data, ec.ECDSA(hashes.SHA256()))),
        (P521, lambda data: P521.sign(data, ec.ECDSA(hashes.SHA512()))),
        (ED, ED.sign),
        (RSA, lambda data: RSA.sign(data, padding.PKCS1v15(), hashes.SHA256())),
    ],
)
def test_signatures_of_each_kind_of_key(key: Any, sign: Callable[[bytes], bytes]) -> None:
    loaded = publickeys.load(pem_of(key))
    made = sign(b"payload")
    assert publickeys.verifies(loaded, made, b"payload")
    assert not publickeys.verifies(loaded, made, b"payloaD")
    assert not publickeys.verifies(loaded, made[:-1], b"payload")
    assert not publickeys.verifies(loaded, b"", b"payload")
    assert not publickeys.verifies(publickeys.load(OTHER.pem), made, b"payload")


def test_a_weak_digest_does_not_count() -> None:
    made = SIGNER.key.sign(b"payload", ec.ECDSA(hashes.SHA1()))
    assert not publickeys.verifies(publickeys.load(SIGNER.pem), made, b"payload")


def test_one_spelling_and_one_id_of_a_key() -> None:
    lines = SIGNER.pem.splitlines()
    spelt = "\r\n".join(["", lines[0], "".join(lines[1:-1]), lines[-1], " "])
    assert publickeys.canonical(spelt) == SIGNER.pem == publickeys.canonical(SIGNER.pem)
    assert publickeys.key_id(publickeys.load(spelt)) == SIGNER.id


PRIVATE = SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("pem", "expected"),
    [
        ("", "not one key in PEM"),
        (SIGNER.pem + OTHER.pem, "not one key in PEM"),
        (PRIVATE, "a private key"),
        (PRIVATE.replace("PRIVATE", "ENCRYPTED SIGSTORE PRIVATE"), "a private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "a certificate"),
        ("-----BEGIN PUBLIC KEY-----\nAAAAA\n-----END PUBLIC KEY-----\n", "base64 is broken"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (f"-----BEGIN PUBLIC KEY-----\n{'AAAA' * 9000}\n-----END PUBLIC KEY-----\n", "27000 bytes"),
        (SIGNER.pem.replace("PUBLIC KEY", "RSA PUBLIC KEY"), "not one key in PEM"),
        (pem_of(rsa.generate_private_key(65537, 1024)), "it has 1024 bits"),
        (pem_of(ec.generate_private_key(ec.SECP256K1())), "its curve is secp256k1"),
        (pem_of(x25519.X25519PrivateKey.generate()), "another kind"),
        (pem_of(dsa.generate_private_key(2048)), "another kind"),
    ],
)
def test_other_keys_are_none(pem: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        publickeys.load(pem)


def test_a_point_off_the_curve_is_no_key() -> None:
    der = bytearray(base64.b64decode("".join(SIGNER.pem.splitlines()[1:-1])))
    der[-1] ^= 1
    text = base64.b64encode(der).decode()
    with pytest.raises(ValueError, match="no public key"):
        publickeys.load(f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")


# --- what a signature is made of


def sig(*layers: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "layers": layers}).encode()


LAYER = SIGNER.layer(b"payload")


def test_layers_that_are_signatures() -> None:
    others = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": LAYER["digest"]},
        {**LAYER, "annotations": None},
        {**LAYER, "annotations": {"other": "x"}},
    ]
    (found,) = signatures_in(sig(*others, LAYER, {**LAYER, "digest": "../x"}))
    assert found.payload == digest_of(b"payload")
    assert publickeys.verifies(publickeys.load(SIGNER.pem), found.value, b"payload")
    assert signatures_in(sig(*others)) == []


def test_the_newest_signatures_are_looked_at() -> None:
    layers = [{**LAYER, "digest": digest_of(bytes([number]))} for number in range(cosign.SIGNATURES_MAX + 3)]
    found = signatures_in(sig(*layers))
    assert len(found) == cosign.SIGNATURES_MAX and found[-1].payload == layers[-1]["digest"]


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"layers": null}',
        b'{"layers": {}}',
        b'{"layers": [1]}',
        b'{"layers": [{"annotations": {"a": 1}}]}',
        b"\xff\xfe",
        b'{"layers": ' + b"[" * 100_000,
        b'{"x": ' + b'{"x": ' * 100_000,
        sig({**LAYER, "annotations": {"dev.cosignproject.cosign/signature": "!"}}),
        sig({**LAYER, "digest": "sha256:../../x"}),
        sig({**LAYER, "digest": ""}),
    ],
)
def test_what_is_no_manifest_of_signatures(manifest: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is no manifest|base64 of a signature|digest of what was signed"):
        signatures_in(manifest)


def test_what_a_payload_is_about() -> None:
    assert claimed(payload_of(f"sha256:{HEX}", called="somewhere.else/entirely")) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"critical": {}}',
        b'{"critical": {"identity": {}, "image": {}, "type": "cosign container image signature"}}',
        payload_of("x", kind="atomic container signature"),
        payload_of("x").replace(b'"x"', b"1"),
        payload_of("x").replace(b"docker-manifest-digest", b"Docker-Manifest-Digest"),
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_payload(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is no payload|it is of the type"):
        claimed(payload)


_COSIGNS = "dev.cosignproject.cosign/signature"
_FIELDS = ["layers", "mediaType", "digest", "annotations", _COSIGNS, "critical", "image", "identity", "type"]
_FIELDS += ["docker-manifest-digest", "docker-reference"]
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=9)
    | st.just(SIMPLE_SIGNING)
    | st.just(f"sha256:{HEX}"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(_FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_an_error_in_words(data: bytes) -> None:
    for read in (signatures_in, claimed):
        with contextlib.suppress(ValueError):
            read(data)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], {}),
        (['Basic realm="x"'], {"basic": {"realm": "x"}}),
        (
            ['Bearer realm="https://a.example/token?x=1",service="b c",scope="repository:a/b:pull,push"'],
            {"bearer": {"realm": "https://a.example/token?x=1", "service": "b c", "scope": "repository:a/b:pull,push"}},
        ),
        (
            ['Basic realm="a, b", BEARER Realm = c , error="\\"q\\""'],
            {"basic": {"realm": "a, b"}, "bearer": {"realm": "c", "error": '"q"'}},
        ),
        (['Basic realm="x"', "Bearer realm=y"], {"basic": {"realm": "x"}, "bearer": {"realm": "y"}}),
        (["Negotiate"], {"negotiate": {}}),
        (['realm="x"'], {}),
    ],
)
def test_challenges(headers: list[str], expected: dict[str, dict[str, str]]) -> None:
    assert challenges(headers) == expected


@settings(max_examples=300)
@given(st.lists(st.text('Bearer="\\, \t', max_size=30), max_size=3))
def test_any_challenge_is_read(headers: list[str]) -> None:
    challenges(headers)


# --- where


def test_endpoints_are_containerds() -> None:
    config = RegistryConfig(
        mirrors=(
            RegistryMirror(registry="docker.io", endpoints=("https://m.example:5000", "http://n.example/v2/hub")),
            RegistryMirror(registry="*", endpoints=("https://o.example/x/../v2",), fallback=False),
            RegistryMirror(registry="p.example", endpoints=("https://q.example/p",), override_path=True),
        )
    )
    roots = {host: [each.root for each in endpoints(config, host)] for host in ("docker.io", "x.example", "p.example")}
    assert roots == {
        "docker.io": ["https://m.example:5000/v2", "http://n.example/v2/hub/v2", "https://registry-1.docker.io/v2"],
        "x.example": ["https://o.example/v2"],
        "p.example": ["https://q.example/p", "https://p.example/v2"],
    }
    assert [each.root for each in endpoints(None, "localhost:5000")] == ["https://localhost:5000/v2"]


# --- a registry


def run(errand: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(errand())


def config_for(
    *asked: FakeRegistry | str, keys: tuple[Signer, ...] = (SIGNER,), auth: tuple[RegistryAuth, ...] = (), **more: Any
) -> RegistryConfig:
    urls = tuple(each if isinstance(each, str) else each.address for each in asked)
    return RegistryConfig(
        mirrors=(RegistryMirror(registry=NAME, endpoints=urls, fallback=False),),
        auth=auth,
        signatures=(RegistrySignature(images=NAME, keys=tuple(signer.pem for signer in keys)),),
        **more,
    )


async def verified(config: RegistryConfig, reference: str = f"{IMAGE}:1") -> Verified:
    found = await Signatures(lambda: config).verified(reference)
    assert found is not None
    return found


async def refused(config: RegistryConfig, reference: str = f"{IMAGE}:1") -> SignatureError:
    with pytest.raises(SignatureError) as caught:
        await Signatures(lambda: config).verified(reference)
    assert caught.value.why and caught.value.remedy
    return caught.value


@contextlib.asynccontextmanager
async def fake() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().listening() as registry:
        yield registry


def test_a_signed_image() -> None:
    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            there.sign(digest, SIGNER)
            assert await verified(config_for(there)) == Verified(digest, (SIGNER.id,))
            assert there.paths == [
                f"/v2/{REPOSITORY}/manifests/1",
                f"/v2/{REPOSITORY}/manifests/{digest.replace(':', '-')}.sig",
                f"/v2/{REPOSITORY}/blobs/{digest_of(payload_of(digest))}",
            ]
            assert all(each.target.endswith(f"?ns={NAME}") for each in there.asked)
            assert {each.headers["host"] for each in there.asked} == {there.host}
            assert not any("authorization" in each.headers for each in there.asked)
            there.asked.clear()
            assert (await verified(config_for(there), f"{IMAGE}:other@{digest}")).digest == digest
            assert len(there.asked) == 2, "a digest needs no resolving"

    run(errand)


def test_what_the_image_is_called_in_the_signature_does_not_matter() -> None:
    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            there.sign(digest, SIGNER, payload=payload_of(digest, called="build.internal/app"))
            assert (await verified(config_for(there))).keys == (SIGNER.id,)

    run(errand)


def test_a_header_says_no_digest() -> None:
    async def errand() -> None:
        async with fake() as there:
            good, bad = there.push("good"), there.push("1", "bad")
            there.sign(good, SIGNER)
            path = f"/v2/{REPOSITORY}/manifests/1"
            there.replies[path] = Reply(body=there.replies[path].body, headers={"Docker-Content-Digest": good})
            error = await refused(config_for(there))
            assert error.reason is Reason.UNSIGNED and bad in error.why

    run(errand)


def test_several_keys() -> None:
    async def errand() -> None:
        async with fake() as there:
            there.sign(there.push(), OTHER)
            assert (await verified(config_for(there, keys=(SIGNER, OTHER)))).keys == (OTHER.id,)
            there.sign(there.push(), OTHER, SIGNER)
            assert (await verified(config_for(there, keys=(SIGNER, OTHER)))).keys == (OTHER.id, SIGNER.id)
            assert (await verified(config_for(there))).keys == (SIGNER.id,)

    run(errand)


def test_unsigned() -> None:
    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            error = await refused(config_for(there))
            assert error.reason is Reason.UNSIGNED
            assert str(error) == f"{IMAGE}:1 is not known to be signed: {there.address} has no signature on {digest}"
            assert error.remedy == f"sign it: cosign sign --key KEY --tlog-upload=false {IMAGE}@{digest}"
            there.put_layers(digest)
            assert (await refused(config_for(there))).reason is Reason.UNSIGNED

    run(errand)


def test_signed_by_somebody_else() -> None:
    async def errand() -> None:
        async with fake() as there:
            there.sign(there.push(), OTHER)
            error = await refused(config_for(there))
            assert error.reason is Reason.OTHER_KEY and f"none of the keys for {NAME}" in error.why

    run(errand)


def test_the_signature_of_another_image() -> None:
    async def errand() -> None:
        async with fake() as there:
            other = there.push("other", "other")
            there.sign(there.push(), SIGNER, payload=payload_of(other))
            error = await refused(config_for(there))
            assert error.reason is Reason.OTHER_IMAGE and other in error.why

    run(errand)


def test_something_else_that_the_key_has_signed() -> None:
    async def errand() -> None:
        async with fake() as there:
            there.sign(there.push(), SIGNER, payload=b"the signer's shopping list")
            assert (await refused(config_for(there))).reason is Reason.DAMAGED

    run(errand)


def test_a_payload_that_is_another_one() -> None:
    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            there.sign(digest, SIGNER)
            path = f"/v2/{REPOSITORY}/blobs/{digest_of(payload_of(digest))}"
            there.replies[path] = Reply(body=payload_of(digest, called="tampered"))
            error = await refused(config_for(there))
            assert "damages data" in error.remedy and digest_of(payload_of(digest, called="tampered")) in error.why
            there.replies[path] = Reply(404)
            assert (await refused(config_for(there))).reason is Reason.DAMAGED
            there.replies[path] = Reply(body=b"#" * (cosign.PAYLOAD_BYTES_MAX + 1))
            assert "larger than" in (await refused(config_for(there))).why

    run(errand)


def test_a_signature_without_its_payload_does_not_spoil_another() -> None:
    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            payload = payload_of(digest)
            there.put(f"blobs/{digest_of(payload)}", payload)
            there.put_layers(digest, SIGNER.layer(b"gone"), OTHER.layer(payload), SIGNER.layer(payload))
            assert (await verified(config_for(there))).keys == (SIGNER.id,)

    run(errand)


def test_the_next_endpoint_is_asked_where_one_lacks_signatures() -> None:
    async def errand() -> None:
        async with fake() as mirror, fake() as there:
            digest = there.push()
            there.sign(digest, SIGNER)
            mirror.push()
            assert (await verified(config_for(mirror, there))).digest == digest
            assert f"/v2/{REPOSITORY}/manifests/1" not in there.paths, "the mirror has said what the tag stands for"
            mirror.sign(digest, OTHER)
            assert (await verified(config_for(mirror, there))).keys == (SIGNER.id,)
            mirror.guard = lambda _: Reply(503)
            assert (await verified(config_for(mirror, there))).digest == digest
            assert (await verified(config_for("http://127.0.0.1:1", there))).digest == digest
            there.replies.clear()
            error = await refused(config_for("http://127.0.0.1:1", there))
            assert error.reason is Reason.UNREACHABLE
            assert f"http://127.0.0.1:1: connection refused; {there.address} has no such image" in error.why

    run(errand)


def test_an_image_that_is_not_there() -> None:
    async def errand() -> None:
        async with fake() as there:
            assert (await refused(config_for(there))).reason is Reason.NOT_FOUND

    run(errand)


def test_the_configuration_in_force_counts() -> None:
    async def errand() -> None:
        async with fake() as there:
            there.sign(there.push(), SIGNER)
            config = config_for(there, keys=(OTHER,))
            asked = Signatures(lambda: config)
            with pytest.raises(SignatureError):
                await asked.verified(f"{IMAGE}:1")
            config = config_for(there)
            assert await asked.verified(f"{IMAGE}:1")

    run(errand)


# --- credentials


def login(host: str, **fields: str) -> tuple[RegistryAuth, ...]:
    return (RegistryAuth(host=host, **(fields or {"username": "me", "password": "pass:word"})),)


BASIC = f"Basic {base64.b64encode(b'me:pass:word').decode()}"


def basic_only(asked: Asked) -> Reply | None:
    ok = asked.headers.get("authorization") == BASIC
    return None if ok else Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})


def test_a_password_is_shown_where_it_is_asked_for() -> None:
    async def errand() -> None:
        async with fake() as there:
            there.sign(there.push(), SIGNER)
            there.guard = basic_only
            assert (await verified(config_for(there, auth=login(there.host)))).keys
            assert "authorization" not in there.asked[0].headers
            assert [each.headers.get("authorization", "") for each in there.asked[1:]] == [BASIC] * 3
            error = await refused(config_for(there))
            assert "it wants a user name and a password" in error.why and "RegistryConfig (auth)" in error.remedy
            there.asked.clear()
            error = await refused(config_for(there, auth=login("127.0.0.1")))
            assert not any("authorization" in each.headers for each in there.asked), "the port belongs to the host"
            wrong = login(there.host, username="me", password="other")
            assert "does not take the credentials" in (await refused(config_for(there, auth=wrong))).why

    run(errand)


def test_docker_hub_goes_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def ask(url: str, *, headers: dict[str, str], **_: Any) -> exchange.Answer:
        asked.append((url, headers.get("Authorization", "")))
        refusal = Message()
        refusal["WWW-Authenticate"] = "Basic"
        return exchange.Answer(401, refusal)

    monkeypatch.setattr(exchange, "ask", ask)
    entry = RegistrySignature(images="docker.io/nginx", keys=(SIGNER.pem,))
    config = RegistryConfig(auth=login("docker.io"), signatures=(entry,))
    assert "does not take the credentials" in asyncio.run(refused(config, "nginx")).why
    url = "https://registry-1.docker.io/v2/library/nginx/manifests/latest"
    assert asked == [(url, ""), (url, BASIC)]


def test_a_redirection_to_another_host_gets_no_password() -> None:
    async def errand() -> None:
        async with fake() as there, fake() as storage:
            digest = there.push()
            there.sign(digest, SIGNER)
            path = f"/v2/{REPOSITORY}/blobs/{digest_of(payload_of(digest))}"
            storage.replies["/elsewhere"] = there.replies[path]
            there.replies["/here"] = Reply(307, headers={"Location": f"{storage.address}/elsewhere?signed=1"})
            there.replies[path] = Reply(302, headers={"Location": "/here"})
            there.guard = basic_only
            assert (await verified(config_for(there, auth=login(there.host)))).keys
            assert there.asked[-1].headers["authorization"] == BASIC and there.asked[-1].target == "/here"
            assert [each.target for each in storage.asked] == ["/elsewhere?signed=1"]
            assert "authorization" not in storage.asked[0].headers

    run(errand)


class TokenServer:
    """Guards a registry: everybody needs the token, which this gives to whom it knows."""

    def __init__(self, there: FakeRegistry, issuer: FakeRegistry, accepts: Callable[[Asked], bool]) -> None:
        self.there, self.issuer, self.accepts = there, issuer, accepts
        self.scope = f'scope="repository:{REPOSITORY}:pull",'
        self.body = b'{"token": "t0k3n"}'
        there.guard = self.registry
        issuer.guard = self.give

    def registry(self, asked: Asked) -> Reply | None:
        if asked.headers.get("authorization") == "Bearer t0k3n":
            return None
        challenge = f'Bearer {self.scope}realm="{self.issuer.address}/token?a=b",service="the registry"'
        return Reply(401, headers={"WWW-Authenticate": challenge})

    def give(self, asked: Asked) -> Reply | None:
        return Reply(body=self.body) if self.accepts(asked) else Reply(401)


def test_tokens() -> None:
    async def errand() -> None:
        async with fake() as there, fake() as issuer:
            there.sign(there.push(), SIGNER)
            server = TokenServer(there, issuer, lambda _: True)
            for scope in (server.scope, ""):
                server.scope = scope
                assert (await verified(config_for(there))).keys
                asked = issuer.asked[-1]
                assert "authorization" not in asked.headers, "everybody gets a token"
                query = {"a": ["b"], "service": ["the registry"], "scope": [f"repository:{REPOSITORY}:pull"]}
                assert parse_qs(urlsplit(asked.target).query) == query
            assert len(issuer.asked) == 2, "one token for a whole errand"
            server.body = b'{"access_token": "t0k3n"}'
            assert (await verified(config_for(there))).keys
            server.accepts = lambda asked: asked.headers.get("authorization") == BASIC
            assert (await verified(config_for(there, auth=login(there.host)))).keys
            error = await refused(config_for(there))
            assert f"its token server {issuer.address}/token answers 401" in error.why
            assert "RegistryConfig (auth)" in error.remedy
            assert "answers 401" in (await refused(config_for(there, auth=login(issuer.host)))).why

    run(errand)


def test_an_identity_token_becomes_a_token() -> None:
    async def errand() -> None:
        async with fake() as there, fake() as issuer:
            there.sign(there.push(), SIGNER)
            TokenServer(there, issuer, lambda asked: asked.method == "POST")
            auth = login(there.host, identity_token="id&t")
            assert (await verified(config_for(there, auth=auth))).keys
            form = parse_qs(issuer.asked[0].body.decode())
            assert form["grant_type"] == ["refresh_token"] and form["refresh_token"] == ["id&t"]
            assert form["scope"] == [f"repository:{REPOSITORY}:pull"] and form["service"] == ["the registry"]

    run(errand)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: y"}', b"[" * 50_000, b"\xff"],
)
def test_what_is_no_token(body: bytes) -> None:
    async def errand() -> None:
        async with fake() as there, fake() as issuer:
            there.sign(there.push(), SIGNER)
            TokenServer(there, issuer, lambda _: True).body = body
            error = await refused(config_for(there))
            assert error.reason is Reason.UNREACHABLE and "token" in error.why

    run(errand)


def test_a_token_that_is_not_taken() -> None:
    async def errand() -> None:
        async with fake() as there, fake() as issuer:
            there.push()
            TokenServer(there, issuer, lambda _: True).body = b'{"token": "other"}'
            assert "it answers 401 Unauthorized" in (await refused(config_for(there))).why

    run(errand)


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Bearer",
        "Bearer realm=",
        "Bearer realm=/",
        'Bearer realm="ftp://x"',
        'Bearer realm="http://["',
        "Digest x=y",
    ],
)
def test_what_is_no_challenge(challenge: str) -> None:
    async def errand() -> None:
        async with fake() as there:
            there.guard = lambda _: Reply(401, headers={"WWW-Authenticate": challenge})
            assert (await refused(config_for(there, auth=login(there.host)))).reason is Reason.UNREACHABLE

    run(errand)


# --- TLS


def tls(directory: Path) -> tuple[ssl.SSLContext, Authority]:
    authority = Authority.make(directory / "authority")
    identity = authority.issue()
    (directory / "server.pem").write_bytes(identity.certificate_pem + identity.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context, authority


def test_tls_is_vouched_for(tmp_path: Path) -> None:
    context, authority = tls(tmp_path)
    vouching = {"authorities": (RegistryAuthority(host="127.0.0.1", certificate=authority.pem),)}

    async def errand() -> None:
        async with FakeRegistry().listening(context) as there:
            digest = there.push()
            there.sign(digest, SIGNER)
            assert (await verified(config_for(there, **vouching))).digest == digest
            error = await refused(config_for(there))
            assert "certificate is not accepted" in error.why and "(authorities)" in error.remedy
            broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            config = config_for(there, authorities=(RegistryAuthority(host="127.0.0.1", certificate=broken),))
            assert "is no certificate" in (await refused(config)).why
            plain = there.address.replace("https", "http")
            assert (await refused(config_for(plain, **vouching))).reason is Reason.UNREACHABLE

    run(errand)


def test_nothing_leads_out_of_tls(tmp_path: Path) -> None:
    context, authority = tls(tmp_path)
    vouching = {"authorities": (RegistryAuthority(host="127.0.0.1", certificate=authority.pem),)}

    async def errand() -> None:
        async with FakeRegistry().listening(context) as there, fake() as plain:
            plain.sign(plain.push(), SIGNER)
            config = config_for(there, auth=login(there.host), **vouching)
            for path in list(plain.replies):
                there.replies[path] = Reply(307, headers={"Location": f"{plain.address}{path}"})
            assert "which is not https" in (await refused(config)).why
            challenge = f'Bearer realm="{plain.address}/token"'
            there.guard = lambda _: Reply(401, headers={"WWW-Authenticate": challenge})
            assert "as its token server http://" in (await refused(config)).why
            assert plain.asked == []

    run(errand)


# --- bounds


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "TIMEOUT_S", 0.2)


RAW = [
    b"",
    b"HTTP/1.1 200 OK",
    b"HTTP/2 200\r\n\r\n",
    b"SSH-2.0-x\r\n\r\n",
    b"HTTP/1.1 999 Words\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345678",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234567\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * exchange.HEAD_BYTES_MAX + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n" + b"#" * (registry.MANIFEST_BYTES_MAX + 1),
    b"HTTP/1.1 301 Words\r\nLocation: /v2/team/app/manifests/1\r\n\r\n",
    b"HTTP/1.1 301 Words\r\nLocation: http://[\r\n\r\n",
    b"HTTP/1.1 301 Words\r\nLocation: http://127.0.0.1:99999/\r\n\r\n",
    b"HTTP/1.1 301 Words\r\nLocation: http://a b/\r\n\r\n",
    b"HTTP/1.1 301 Words\r\nLocation: /a\xffb\r\n\r\n",
    b"HTTP/1.1 301 Words\r\nLocation: http://me:pw@127.0.0.1/\r\n\r\n",
    b"HTTP/1.1 301 Words\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 Words\r\n\r\n",
    b"HTTP/1.1 500 Words\r\n\r\n",
]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_answers_that_are_none(raw: bytes) -> None:
    async def errand() -> None:
        async with fake() as there:
            there.replies[f"/v2/{REPOSITORY}/manifests/1"] = Reply(raw=raw)
            assert (await refused(config_for(there))).reason is Reason.UNREACHABLE

    run(errand)


@settings(max_examples=150)
@given(st.binary(max_size=40), st.integers(0, 120), st.integers(0, 5))
def test_any_answer_is_an_error_in_words(noise: bytes, at: int, cut: int) -> None:
    good = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\n12345\r\n0\r\n\r\n"

    async def errand() -> None:
        async with fake() as there:
            there.replies[f"/v2/{REPOSITORY}/manifests/1"] = Reply(raw=good[:at] + noise + good[at + cut :])
            await refused(config_for(there))

    run(errand)


def test_a_chunked_answer() -> None:
    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            there.sign(digest, SIGNER)
            for path, reply in list(there.replies.items()):
                half = len(reply.body) // 2
                parts = b"".join(
                    b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in (reply.body[:half], reply.body[half:])
                )
                there.replies[path] = Reply(body=parts + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
            assert (await verified(config_for(there))).digest == digest

    run(errand)


def test_what_says_nothing_is_not_waited_for(impatient: None) -> None:
    async def errand() -> None:
        async with fake() as there:
            for raw in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"):
                there.guard = lambda _, raw=raw: Reply(raw=raw, stalls=True)
                assert "no answer in time" in (await refused(config_for(there))).why

    run(errand)


def test_an_errand_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "WHOLE_TIMEOUT_S", 0.2)

    async def errand() -> None:
        async with fake() as there:
            there.guard = lambda _: Reply(raw=b"", stalls=True)
            assert (await refused(config_for(there))).reason is Reason.UNREACHABLE

    run(errand)


def test_an_errand_can_be_called_off() -> None:
    async def errand() -> None:
        async with fake() as there:
            there.guard = lambda _: Reply(raw=b"", stalls=True)
            task = asyncio.create_task(Signatures(lambda: config_for(there)).verified(f"{IMAGE}:1"))
            while not there.asked:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(errand)


def test_a_name_that_nobody_knows() -> None:
    config = config_for("http://registry.invalid")
    error = asyncio.run(refused(config))
    assert error.reason is Reason.UNREACHABLE and "name" in error.why


@settings(max_examples=100)
@given(st.data())
def test_a_byte_elsewhere_never_makes_an_image_signed(data: st.DataObject) -> None:
    """Whatever is changed of what a registry has, the digest that comes out is one that the key has signed."""

    async def errand() -> None:
        async with fake() as there:
            digest = there.push()
            there.sign(digest, SIGNER)
            path = data.draw(st.sampled_from(sorted(there.replies)))
            body = bytearray(there.replies[path].body)
            body[data.draw(st.integers(0, 9999)) % len(body)] ^= data.draw(st.integers(1, 255))
            there.replies[path] = Reply(body=bytes(body))
            with contextlib.suppress(SignatureError):
                assert (await verified(config_for(there))).digest == digest

    run(errand)


def test_ids_are_those_that_openssl_shows() -> None:
    der = base64.b64decode("".join(SIGNER.pem.splitlines()[1:-1]))
    assert publickeys.key_id(publickeys.load(SIGNER.pem)) == hashlib.sha256(der).hexdigest()


def test_names_that_are_none() -> None:
    config = config_for("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="no name"):
        Signatures(lambda: config).policy_for(HEX)
    assert parse(f"{IMAGE}:1").name == IMAGE
