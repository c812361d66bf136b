"""Configuration documents on a node: secrets that leave it only redacted and come back, patches, and refusals that change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from basalt.docs_examples import EXAMPLES
from tests.node.conftest import Boot, Node

pytestmark = pytest.mark.node

HEAD = "apiVersion: basalt.dev/v1alpha1\nkind: "
SECRETS = ("s3cr3t-password", "s3cr3t-proxy", "UzNjcjN0LXRoYXQtbm9ib2R5LWVsc2Uta25vd3MhISE=")
CONFIG = "---\n".join(
    (
        f"{HEAD}MachineConfig\nhostname: papers\nsysctls: {{net.core.somaxconn: 5000}}\n",
        f"{HEAD}NetworkConfig\nlinks:\n- {{name: eth0, dhcp4: true}}\n"
        f"- {{name: wg0, wireguard: {{privateKey: {SECRETS[2]}, listenPort: 51820}}}}\n",
        f"{HEAD}RegistryConfig\nauth: [{{host: registry.example, username: puller, password: {SECRETS[0]}}}]\n",
        f"{HEAD}ServiceConfig\nname: containerd\nenvironment: {{HTTPS_PROXY: 'http://u:{SECRETS[1]}@proxy.example:3128'}}\n",
    )
)


@pytest.fixture(scope="module")
def node(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A configured node."""
    node = boot()
    said = apply(node, tmp_path_factory.mktemp("documents"), CONFIG)
    assert not [secret for secret in SECRETS if secret in said], "a diff shows a secret"
    return node


def apply(node: Node, directory: Path, text: str, *options: str, expect: int = 0) -> str:
    path = directory / "node.yaml"
    path.write_text(text)
    return node.osctl("apply-config", "-f", path, *options, expect=expect)


def test_read_shows_no_secret_and_is_applied_with_them(node: Node, tmp_path: Path) -> None:
    shown = node.osctl("get", "config")
    assert shown.count("[redacted ") == len(SECRETS)
    assert not [secret for secret in SECRETS if secret in shown]
    assert "nothing differs" in apply(node, tmp_path, shown)
    assert "nothing differs" in apply(node, tmp_path, CONFIG), "the node still has the secrets themselves"


def test_patch_changes_its_fields_and_keeps_the_secrets(node: Node, tmp_path: Path) -> None:
    patch = tmp_path / "patch.yaml"
    patch.write_text(f"{HEAD}MachineConfig\nlabels: {{example.org/rack: r12}}\nsysctls: null\n")
    node.osctl("config", "patch", "-f", patch)
    expected = CONFIG.replace("sysctls: {net.core.somaxconn: 5000}", "labels: {example.org/rack: r12}")
    assert "nothing differs" in apply(node, tmp_path, expected)


def test_patch_takes_a_document_out(node: Node, tmp_path: Path) -> None:
    patch = tmp_path / "patch.yaml"
    patch.write_text("kind: ServiceConfig\nname: containerd\n$patch: delete\n")
    node.osctl("config", "patch", "-f", patch)
    assert "ServiceConfig" not in node.osctl("get", "config")


def test_refused_documents_change_nothing(node: Node, tmp_path: Path) -> None:
    before = node.osctl("get", "config")
    wrong = (
        f"{HEAD}NetworkConfig\nlinks:\n- {{name: b, bond: {{links: [eth0]}}}}\n- {{name: eth0, dhcp4: true}}\n---\n"
        f"{HEAD}MachineConfig\nhostname: a\nsysctls: {{kernel.modprobe: /x}}\n"
    )
    said = apply(node, tmp_path, wrong, expect=2)
    assert "node.yaml:4:28: NetworkConfig: $.links[0].bond.links[0]: found eth0, which has dhcp4 of its own" in said
    assert "node.yaml:10:28: MachineConfig: $.sysctls['kernel.modprobe']: kernel.modprobe has the kernel run" in said
    # What only the node can tell.
    unknown = f"{HEAD}RegistryConfig\nauth: [{{host: a.example, username: u, password: '[redacted 01234567]'}}]\n"
    said = apply(node, tmp_path, unknown, expect=2)
    assert "node.yaml:3:49: RegistryConfig: $.auth[0].password: a redacted secret, [redacted 01234567]" in said
    assert node.osctl("get", "config") == before, "generation included"


def test_examples_of_the_reference_page_would_be_applied(node: Node, tmp_path: Path) -> None:
    """AccessConfig's is left out: it shows certificates that are none."""
    examples = "---\n".join(text for kind, text in EXAMPLES.items() if kind != "AccessConfig")
    said = apply(node, tmp_path, examples, "--dry-run")
    assert "nothing was changed (--dry-run)" in said
    assert "correct horse" not in said


def test_secrets_stand_in_no_log_and_on_no_console(node: Node) -> None:
    said = node.console() + node.osctl("logs", "machined") + node.osctl("audit")
    assert not [secret for secret in SECRETS if secret in said]
