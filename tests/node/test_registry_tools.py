"""The registry that other tests give a node, looked at from the host: it takes and hands out images, and each fault is one.

No node is booted here.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
import tarfile
import threading
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from basalt.config import parse
from basalt.config.documents import RegistryConfig
from osbuild.sandbox import CommandError
from tests.node import registry as registries
from tests.node import registry_proxy
from tests.node.conftest import until
from tests.node.images import UID, Images
from tests.node.registry import Endpoint, Registry
from tests.node.registry_access import NAME, NODE, OTHER
from tests.node.registry_faults import Corrupt, Fault, HangUp, Refuse, Slow, Stall, Truncate
from tests.node.registry_proxy import FaultyRegistry
from tests.node.registry_signing import KeyPair, signature_of
from tests.node.registry_tools import Tools

pytestmark = pytest.mark.node

LARGE_BYTES = 8 * 2**20
GIVE_UP_S = 3.0
GAVE_UP = "context deadline exceeded"


@pytest.fixture(scope="module")
def guarded(registry_tools: Tools) -> Iterator[Registry]:
    """A registry that asks for credentials."""
    with registries.running(registry_tools, credentials=NODE) as running:
        yield running


@pytest.fixture
def pushed(registry: Registry, faulty_registry: FaultyRegistry, images: Images) -> FaultyRegistry:
    """The proxy, with busybox behind it and no request seen yet."""
    registry.push(images.busybox, "busybox:1")
    faulty_registry.forget()
    return faulty_registry


def test_images_are_what_was_asked_for(registry_tools: Tools, images: Images) -> None:
    assert images.busybox.config["config"] == {"Env": ["PATH=/bin"], "Cmd": ["sh"]}
    assert images.unprivileged.config["config"]["User"] == f"{UID}:{UID}"
    assert images.unprivileged.layers == images.busybox.layers
    large = images.large(LARGE_BYTES)
    assert large.layers[0] == images.busybox.layers[0] and large.manifest["layers"][1]["size"] > LARGE_BYTES
    assert images.large(LARGE_BYTES) is large and images.large(LARGE_BYTES, seed=1).layers[1] != large.layers[1]
    assert Images(registry_tools).large(LARGE_BYTES).digest == large.digest, "the same arguments make the same bytes"
    blob = images.busybox.layout / "blobs" / images.busybox.layers[0].replace(":", "/")
    with tarfile.open(blob) as layer:
        assert layer.getmember("bin/sh").linkname == "busybox" and layer.getmember("bin/busybox").mode == 0o755


def test_images_as_one_file(images: Images) -> None:
    with tarfile.open(images.busybox.oci_archive()) as archive:
        assert {"oci-layout", "index.json"} <= set(archive.getnames())
    with tarfile.open(images.busybox.docker_archive("registry.test/busybox:1")) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest and json.load(manifest)[0]["RepoTags"] == ["registry.test/busybox:1"]


def test_push_pull_and_delete(registry: Registry, images: Images) -> None:
    digest = registry.push(images.busybox, "team/busybox:1")
    assert (
        digest
        == images.busybox.digest
        == registry.digest("team/busybox:1")
        == registry.digest("team/busybox@" + digest)
    )
    assert registry.tags("team/busybox") == ["1"]
    pulled = registry.pull(f"team/busybox@{digest}")
    assert (pulled.digest, pulled.manifest) == (digest, registry.manifest("team/busybox:1"))
    registry.delete("team/busybox:1")
    assert registry.digest("team/busybox:1") == "" and registry.tags("team/busybox") == []
    with pytest.raises(CommandError, match="manifest unknown"):
        registry.pull("team/busybox:1")


@pytest.mark.parametrize("name", ["127.0.0.1", "10.0.2.2", "registry.test"])
def test_the_certificate_is_for_the_names_that_hosts_and_guests_use(registry: Registry, name: str) -> None:
    trust = ssl.create_default_context(cadata=registry.authority.pem)
    with (
        socket.create_connection(("127.0.0.1", registry.port)) as plain,
        trust.wrap_socket(plain, server_hostname=name),
    ):
        pass


def test_another_authority_is_no_authority(registry: Registry, guarded: Registry) -> None:
    stranger = Endpoint(registry.tools, guarded.authority, registry.port)
    with pytest.raises(CommandError, match="certificate signed by unknown authority"):
        stranger.pull("busybox:1")


def test_nobody_is_let_in_without_credentials(guarded: Registry, images: Images) -> None:
    guarded.push(images.busybox, "busybox:1")
    assert guarded.pull("busybox:1").digest == images.busybox.digest
    for somebody in (None, OTHER):
        stranger = guarded.spoken_to_by(somebody)
        assert stranger.ask("GET", "/v2/").status == HTTPStatus.UNAUTHORIZED
        with pytest.raises(CommandError, match=r"unauthorized|authentication required"):
            stranger.pull("busybox:1")
        with pytest.raises(CommandError, match=r"unauthorized|authentication required"):
            stranger.push(images.busybox, "busybox:2")


def test_a_mirror_fetches_from_the_origin_what_it_lacks(
    registry_tools: Tools, pushed: FaultyRegistry, images: Images
) -> None:
    digest, layer = images.busybox.digest, images.busybox.layers[0]
    with registries.running(registry_tools, credentials=NODE, mirror_of=pushed) as mirror:
        assert mirror.pull("busybox:1").digest == digest
        assert pushed.seen(f"GET .*{layer}")
        # The copies are complete a little after the answers.
        until(lambda: len(list(mirror.log.parent.rglob("_layers/sha256/*/link"))) == 2)
        pushed.forget()
        assert mirror.pull(f"busybox@{digest}").digest == digest
        assert pushed.seen("GET .*/blobs/") == []
        with pytest.raises(CommandError, match="unsupported"):
            mirror.push(images.busybox, "busybox:2")


def test_nothing_listens_but_on_the_one_address(registry: Registry, faulty_registry: FaultyRegistry) -> None:
    for endpoint in (registry, faulty_registry):
        with socket.socket() as caller:
            assert caller.connect_ex(("127.0.0.2", endpoint.port)) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Truncate(), "unexpected EOF"),
        (Corrupt(), "Digest did not match"),
        (Corrupt(on="/manifests/", at_least=1), "invalid character"),
        (HangUp(), "EOF"),
        (Refuse(on="/blobs/"), "500 Internal Server Error|refused by the test"),
        (Refuse(status=HTTPStatus.UNAUTHORIZED, on="/manifests/"), "refused by the test"),
        # skopeo would wait longer than the tests do.
        (Stall(), GAVE_UP),
        (Slow(bytes_per_s=50_000), GAVE_UP),
        (Refuse(status=HTTPStatus.TOO_MANY_REQUESTS, retry_after_s=1), GAVE_UP),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else "",
)
def test_each_fault_is_seen_by_who_pulls_and_then_gone(pushed: FaultyRegistry, fault: Fault, words: str) -> None:
    with pushed.having(fault), pytest.raises(CommandError, match=words):
        pushed.pull("busybox:1", timeout_s=GIVE_UP_S if words == GAVE_UP else None)
    assert any(request.fault == fault for request in pushed.requests)
    pushed.forget()
    pushed.pull("busybox:1")
    assert not any(request.fault for request in pushed.requests)


def test_a_stalled_pull_goes_on_when_it_is_released(pushed: FaultyRegistry, images: Images) -> None:
    (layer,) = images.busybox.layers
    size = images.busybox.manifest["layers"][0]["size"]
    pushed.add(Stall(on=layer))
    pulled: list[str] = []
    pulling = threading.Thread(target=lambda: pulled.append(pushed.pull("busybox:1").digest))
    pulling.start()
    try:
        until(lambda: [request.sent for request in pushed.seen(layer)] == [size // 2])
        assert not pulled
    finally:
        pushed.release()
        pulling.join()
    assert pulled == [images.busybox.digest]
    assert [request.sent for request in pushed.seen(layer)] == [size]


def test_a_fault_that_happens_once_is_got_over(pushed: FaultyRegistry, images: Images) -> None:
    size = images.busybox.manifest["layers"][0]["size"]
    with pushed.having(
        Refuse(status=HTTPStatus.TOO_MANY_REQUESTS, retry_after_s=1, times=1), Truncate(at=size - 1000, times=1)
    ):
        assert pushed.pull("busybox:1").digest == images.busybox.digest
    assert [request.status for request in pushed.requests][:2] == [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK]
    assert pushed.requests[1].began - pushed.requests[0].began >= 1
    parts = pushed.seen(images.busybox.layers[0])
    assert [(part.status, part.sent) for part in parts] == [
        (HTTPStatus.OK, size - 1000),
        (HTTPStatus.PARTIAL_CONTENT, 1000),
    ]
    assert parts[1].headers["range"].startswith(f"bytes={size - 1000}-")


def test_requests_are_noted_with_who_made_them(guarded: Registry, images: Images) -> None:
    large = images.large(LARGE_BYTES)
    with registry_proxy.faulty(guarded) as proxy:
        proxy.push(large, "large:1")
        assert proxy.pull("large:1").digest == large.digest
        fetched = proxy.seen(f"GET .*{large.layers[1]}")
        assert [request.sent for request in fetched] == [large.manifest["layers"][1]["size"]]
        assert {request.credentials for request in proxy.seen("/manifests/")} == {NODE.words}
        assert {request.headers["host"] for request in proxy.requests} == {proxy.here}


def test_signatures(guarded: Registry, images: Images) -> None:
    """By a key, and with nobody asked but the registry."""
    key, other = KeyPair.make(guarded.tools), KeyPair.make(guarded.tools)
    assert key.public_pem.startswith("-----BEGIN PUBLIC KEY-----")
    guarded.push(images.busybox, "signed:1")
    with pytest.raises(CommandError, match="no signatures found"):
        key.verify(guarded, "signed:1")
    digest = key.sign(guarded, "signed:1")
    key.verify(guarded, "signed:1")
    with pytest.raises(CommandError, match="invalid signature"):
        other.verify(guarded, "signed:1")
    (layer,) = guarded.manifest(signature_of("signed:1", digest))["layers"]
    payload = json.loads(guarded.ask("GET", f"/v2/signed/blobs/{layer['digest']}").body)
    assert payload["critical"]["image"]["docker-manifest-digest"] == digest
    assert payload["critical"]["identity"]["docker-reference"] == "registry.test/signed"


def test_a_node_can_be_configured_for_it(guarded: Registry) -> None:
    fields = guarded.document(NAME, "docker.io")
    text = json.dumps({"apiVersion": "basalt.dev/v1alpha1", "kind": "RegistryConfig", **fields})
    (config,) = (document for document in parse(text.encode(), "registry.yaml").documents)
    assert isinstance(config, RegistryConfig)
    assert [mirror.registry for mirror in config.mirrors] == ["registry.test", "docker.io"]
    assert config.auth[0].host == guarded.there and config.auth[0].username == NODE.username
