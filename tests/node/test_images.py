"""Images on a node: from an archive, from a registry, through a mirror, and from registries that do harm."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.conftest import Node, until
from tests.node.images import Images
from tests.node.registry import Registry, running
from tests.node.registry_access import NAME, NODE
from tests.node.registry_faults import Corrupt, Refuse, Stall, Truncate
from tests.node.registry_proxy import FaultyRegistry
from tests.node.registry_signing import KeyPair
from tests.node.registry_tools import Tools

pytestmark = pytest.mark.node

API = {"apiVersion": "basalt.dev/v1alpha1"}
MACHINE = API | {"kind": "MachineConfig", "hostname": "tested"}


@pytest.fixture(scope="module")
def node(boot_faulty: Callable[[], Node], tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A configured node whose containerd is up."""
    booted = boot_faulty()
    booted.configure(tmp_path_factory.mktemp("images"))
    booted.until_converged("containers", "network", "clock")
    return booted


def apply(node: Node, directory: Path, *documents: dict[str, Any]) -> None:
    """Have the node configured with *documents* besides its name; JSON is YAML."""
    path = directory / "node.yaml"
    path.write_text("---\n".join(json.dumps(document) + "\n" for document in (MACHINE, *documents)))
    node.osctl("apply-config", "-f", path)
    node.until_converged("registries", "containers")


def registries(*documents: dict[str, Any]) -> dict[str, Any]:
    """One RegistryConfig of what several registries want."""
    merged: dict[str, Any] = API | {"kind": "RegistryConfig"}
    for document in documents:
        for key, value in document.items():
            merged[key] = [*merged.get(key, []), *value]
    return merged


def names(node: Node) -> dict[str, dict[str, Any]]:
    """The images of the node by each of their names."""
    return {name: image for image in node.ask("image", "list") for name in image["references"]}


def test_image_comes_as_a_layout_or_an_archive_and_leaves_as_one(
    node: Node, images: Images, registry_tools: Tools, tmp_path: Path
) -> None:
    """No registry is near. A name without a registry becomes the one that everybody means by it."""
    busybox = images.busybox
    assert "only the tag latest" in node.osctl("image", "import", busybox.layout, expect=4)
    for source, options, reference in (
        (busybox.layout, ["--reference", "tried:1"], "docker.io/library/tried:1"),
        (busybox.oci_archive("app:2"), [], "docker.io/library/app:2"),
        (busybox.docker_archive("registry.test/team/app:3"), [], "registry.test/team/app:3"),
    ):
        node.osctl("image", "import", source, *options)
        image = names(node)[reference]
        if source.suffix != ".tar" or "app:2" in reference:
            assert image["digest"] == busybox.digest  # a Docker archive is another form, with another digest
        assert image["used_by"] == []
    assert not any(name.startswith("basalt.local/import") for name in names(node))
    exported = registry_tools.directory / "exported.tar"
    node.osctl("image", "export", "app:2", "-O", exported)
    described = json.loads(registry_tools.run("skopeo", "inspect", f"oci-archive:{registry_tools.inside(exported)}"))
    assert described["Digest"] == busybox.digest
    node.osctl("image", "remove", "app:2")
    assert {"docker.io/library/app:2", "docker.io/library/tried:1"} & names(node).keys() == {
        "docker.io/library/tried:1"
    }
    node.osctl("image", "remove", "tried:1", "registry.test/team/app:3")
    assert names(node).keys() == {"basalt.local/pause:1"}


def test_half_an_archive_is_refused_and_nothing_is_kept(node: Node, images: Images, tmp_path: Path) -> None:
    whole = images.large(2**20).oci_archive("half:1").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    before = names(node)
    said = node.osctl("image", "import", cut, expect=4)
    assert "cannot import" in said and "EOF" in said
    assert names(node) == before
    other = tmp_path / "other.tar"
    other.write_text("no archive at all\n" * 1000)
    node.osctl("image", "import", other, expect=2)


def test_what_is_no_image_is_told(node: Node) -> None:
    assert "no image" in node.osctl("image", "pull", "UPPER/case", expect=2)
    assert "there is no image" in node.osctl("image", "remove", "missing:1", expect=4)
    assert "not found" in node.osctl("image", "export", "missing:1", "-O", "/tmp/never", expect=4)
    assert "the runtime itself" in node.osctl("image", "list") or names(node)["basalt.local/pause:1"]["pinned"]
    assert "every sandbox" in node.osctl("image", "remove", "basalt.local/pause:1", expect=4)


@pytest.fixture
def reaches(node: Node, faulty_registry: FaultyRegistry, tmp_path: Path) -> None:
    """The node pulls what is registry.test's from a registry that can do harm."""
    apply(node, tmp_path, registries(faulty_registry.document(NAME)))


@pytest.fixture
def fresh(images: Images, faulty_registry: FaultyRegistry, reaches: None) -> Callable[[], tuple[str, str]]:
    """Puts an image into the registry of whose content the node has nothing; its name, and its digest."""

    def push() -> tuple[str, str]:
        _counter[0] += 1
        image = images.large(4 * 2**20, seed=_counter[0])
        faulty_registry.push(image, f"large:{_counter[0]}")
        faulty_registry.forget()
        return f"{NAME}/large:{_counter[0]}", image.digest

    return push


_counter = [0]


def test_pull_over_tls_of_a_private_authority_through_a_mirror(
    node: Node, fresh: Callable[[], tuple[str, str]], faulty_registry: FaultyRegistry
) -> None:
    """registry.test has no address anywhere: what is pulled from it comes from its mirror alone, for whoever configured that."""
    reference, digest = fresh()
    said = node.ask("image", "pull", reference)
    assert (said["reference"], said["digest"]) == (reference, digest)
    assert faulty_registry.seen("blobs")
    direct = reference.replace(NAME, faulty_registry.there)
    assert node.ask("image", "pull", f"{direct}@{digest}")["digest"] == digest


def test_without_its_authority_and_without_credentials_the_node_gets_nothing_and_is_told_what_is_missing(
    node: Node, registry_tools: Tools, images: Images, tmp_path: Path
) -> None:
    with running(registry_tools, credentials=NODE) as guarded:
        guarded.push(images.busybox, "secret:1")
        reference = f"{guarded.there}/secret:1"
        apply(node, tmp_path)
        said = node.osctl("image", "pull", reference, expect=4)
        assert "certificate" in said and "authorities" in said
        document = guarded.document()
        apply(node, tmp_path, registries({"authorities": document["authorities"]}))
        said = node.osctl("image", "pull", reference, expect=4)
        assert "auth" in said and NODE.password not in said
        apply(node, tmp_path, registries(document))
        assert node.ask("image", "pull", reference)["digest"] == images.busybox.digest
        node.osctl("image", "remove", reference)


def test_registry_that_lies_or_fails_gives_no_image_and_is_asked_anew(
    node: Node, fresh: Callable[[], tuple[str, str]], faulty_registry: FaultyRegistry
) -> None:
    """Whatever was kept of the bad try, the next one, of a registry that has come to its senses, succeeds."""
    for fault, words in (
        (Corrupt(), "digest"),
        (Refuse(status=500), "500"),
    ):
        reference, digest = fresh()
        with faulty_registry.having(fault):
            said = node.osctl("image", "pull", reference, expect=4)
            assert "cannot pull" in said and words in said
            assert reference not in names(node)
        assert node.ask("image", "pull", reference)["digest"] == digest


def test_registry_that_truncates_again_and_again_is_asked_for_the_rest(
    node: Node, fresh: Callable[[], tuple[str, str]], faulty_registry: FaultyRegistry
) -> None:
    reference, digest = fresh()
    with faulty_registry.having(Truncate()):
        assert node.ask("image", "pull", reference)["digest"] == digest


def test_registry_that_stalls_holds_up_nobody_else(
    node: Node, fresh: Callable[[], tuple[str, str]], faulty_registry: FaultyRegistry, images: Images
) -> None:
    reference, digest = fresh()
    stall = Stall()
    said: list[Any] = []
    with faulty_registry.having(stall):
        pull = threading.Thread(target=lambda: said.append(node.ask("image", "pull", reference)))
        pull.start()
        until(lambda: any(request.fault for request in faulty_registry.requests))
        assert node.concerns()["containers"].state == "converged"
        node.osctl("image", "import", images.busybox.oci_archive("beside:1"))
        node.osctl("image", "remove", "beside:1")
        faulty_registry.release(stall)
        pull.join()
    assert said[0]["digest"] == digest


def test_data_that_is_full_fails_the_pull_and_nothing_else(
    node: Node, fresh: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    reference, _ = fresh()
    node.fault(fill="/var/full")
    try:
        said = node.osctl("image", "pull", reference, expect=4)
        assert "no space left" in said and "prune" in said
        apply(node, tmp_path, registries())
        assert node.answers()
    finally:
        node.fault(unlink="/var/full")


def test_only_what_is_signed_is_taken_where_that_is_asked_for(
    node: Node, registry: Registry, registry_tools: Tools, images: Images, tmp_path: Path
) -> None:
    """By the key that the configuration names: not unsigned, not signed by another, and not from an archive."""
    ours, others = KeyPair.make(registry_tools), KeyPair.make(registry_tools)
    for name, seed, key in (("ours", 101, ours), ("others", 102, others), ("nobodys", 103, None)):
        registry.push(images.large(2**16, seed=seed), f"{name}:1")
        if key:
            key.sign(registry, f"{name}:1")
    policy = {"signatures": [{"images": NAME, "keys": [ours.public_pem]}]}
    apply(node, tmp_path, registries(registry.document(NAME), policy))
    assert node.ask("image", "pull", f"{NAME}/ours:1")["digest"] == images.large(2**16, seed=101).digest
    for name in ("others", "nobodys"):
        said = node.osctl("image", "pull", f"{NAME}/{name}:1", expect=4)
        assert "not known to be signed" in said
        assert f"{NAME}/{name}:1" not in names(node)
    said = node.osctl("image", "import", images.busybox.layout, "--reference", f"{NAME}/slipped:1", expect=4)
    assert "asks for a signature" in said and f"{NAME}/slipped:1" not in names(node)
    node.osctl("image", "import", images.busybox.layout, "--reference", "elsewhere:1")
    node.osctl("image", "remove", "elsewhere:1")


def test_prune_takes_what_nobody_needs(node: Node, images: Images) -> None:
    node.osctl("image", "import", images.busybox.oci_archive("unused:1"))
    would = node.ask("image", "prune", "--dry-run")
    assert "docker.io/library/unused:1" in names(node)
    assert any("docker.io/library/unused:1" in image["references"] for image in would["removed"])
    node.osctl("image", "prune")
    assert "docker.io/library/unused:1" not in names(node)
    assert "basalt.local/pause:1" in names(node)
