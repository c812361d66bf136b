"""The operator's contexts: made once, kept private, changed whole or not at all."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from basalt import context_store, contexts, pki, pki_checks
from basalt.config import ConfigError
from basalt.endpoint import Endpoint, parse_endpoint
from basalt.errors import BasaltError, UsageError
from basalt.roles import Role

FINGERPRINT = "SHA256:" + "ab" * 32


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "osctl" / "config.yaml"
    monkeypatch.setenv("OSCTL_CONFIG", str(path))
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_first_use_makes_an_authority_and_an_admin(file: Path) -> None:
    context = contexts.ensure_context()
    (client,) = pki_checks.load_client_certificates(
        contexts.client_of(context).certificate_pem, "client", at=pki.utc_now()
    )
    (authority,) = pki_checks.load_client_authorities(contexts.client_ca_pem(context), "ca", at=pki.utc_now())
    client.verify_directly_issued_by(authority)
    assert pki.roles_of(client) == {Role.ADMIN}
    assert pki.common_name(client) == contexts.operator_name()
    assert contexts.load().current == "default"


def test_private_files_are_for_their_owner_alone(file: Path) -> None:
    context = contexts.ensure_context()
    assert context.ca_key is not None
    for path in (file, file.parent / context.ca_key, file.parent / context.key):
        assert mode(path) == 0o600
    for directory in (file.parent, file.parent / "config.d", file.parent / "config.d" / "default"):
        assert mode(directory) == 0o700


def test_key_that_others_can_read_is_not_used(file: Path) -> None:
    context = contexts.ensure_context()
    (file.parent / context.key).chmod(0o644)
    with pytest.raises(BasaltError, match=r"others can read it \(mode 0644\)") as caught:
        contexts.client_of(context)
    assert caught.value.remedy.startswith("chmod 600 ")


def test_many_processes_at_once_make_one_context() -> None:
    code = "from basalt import contexts; print(contexts.client_ca_pem(contexts.ensure_context()))"
    # Processes of their own rather than forks: gRPC's threads in this one would not survive a fork.
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(6)]
    answers = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 6
    assert len(set(answers)) == 1


def test_second_use_finds_the_same_context() -> None:
    assert contexts.ensure_context() == contexts.ensure_context("default")


def test_failed_change_leaves_the_file_as_it_was(file: Path) -> None:
    contexts.ensure_context()
    before = file.read_bytes()
    with pytest.raises(UsageError):
        contexts.remove_node("nothing")
    assert file.read_bytes() == before


def test_nodes_are_written_down_and_forgotten() -> None:
    contexts.ensure_context()
    contexts.add_node("a", "192.0.2.1", FINGERPRINT.upper())
    contexts.add_node("b", "[2001:db8::1]:5", FINGERPRINT)
    context = contexts.load().get()
    assert context.node == "a"
    assert contexts.find_node(context, "a") == contexts.Node(endpoint="192.0.2.1:50000", fingerprint=FINGERPRINT)
    assert contexts.find_node(context, "b").address == Endpoint("2001:db8::1", 5)
    contexts.remove_node("a")
    assert contexts.load().get().node == "b"
    contexts.remove_node("b")
    assert contexts.load().get().node is None


def test_contexts_are_apart_and_switched() -> None:
    contexts.ensure_context("home")
    contexts.ensure_context("work")
    contexts.add_node("a", "192.0.2.1", FINGERPRINT, context="work")
    contexts.use("work")
    assert list(contexts.load().get().nodes) == ["a"]
    assert contexts.load().get("home").nodes == {}
    with pytest.raises(UsageError, match="did you mean 'work'"):
        contexts.use("wrok")


def test_renewed_certificate_is_of_the_same_authority() -> None:
    before = contexts.client_of(contexts.ensure_context())
    contexts.renew_client()
    context = contexts.load().get()
    after = contexts.client_of(context)
    assert after.fingerprint != before.fingerprint
    authority = x509.load_pem_x509_certificate(contexts.client_ca_pem(context))
    x509.load_pem_x509_certificate(after.certificate_pem).verify_directly_issued_by(authority)


def test_imported_context_cannot_sign() -> None:
    own = contexts.ensure_context("own")
    given = pki.issue_client(contexts.authority_of(own), "bob", [Role.READER], contexts.CLIENT_LIFETIME)
    contexts.import_context("given", ca_pem=contexts.client_ca_pem(own), client=given)
    context = contexts.load().get("given")
    assert contexts.client_of(context).certificate_pem == given.certificate_pem
    with pytest.raises(UsageError, match="no key of its client authority"):
        contexts.authority_of(context)
    with pytest.raises(UsageError, match="there is a context 'given' already"):
        contexts.import_context("given", ca_pem=b"", client=given)


def test_broken_file_is_told_with_its_place(file: Path) -> None:
    contexts.ensure_context()
    file.write_text(file.read_text().replace("certificate:", "certifcate:"))
    with pytest.raises(ConfigError, match=r"config\.yaml:5:5: \$\.contexts\.default\.certifcate: .* 'certificate'"):
        contexts.load()


def test_file_written_by_hand_may_spell_fingerprints_as_pasted(file: Path) -> None:
    contexts.ensure_context()
    file.write_text(file.read_text() + f"    nodes: {{a: {{endpoint: host, fingerprint: '{'AB:' * 31}AB'}}}}\n")
    assert contexts.load().get().nodes["a"] == contexts.Node(endpoint="host:50000", fingerprint=FINGERPRINT)


def test_names_that_would_leave_the_directory_are_refused() -> None:
    for name in ("../x", "", "a/b", "a" * 64, "-n"):
        with pytest.raises(UsageError, match="cannot be the name of a context"):
            contexts.ensure_context(name)


def test_file_is_found_by_the_rules_of_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSCTL_CONFIG")
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/u")
    assert context_store.config_path() == Path("/etc/u/osctl/config.yaml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert context_store.config_path() == Path("/home/u/.config/osctl/config.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", "host:50000"),
        ("host:1", "host:1"),
        ("192.0.2.1:65535", "192.0.2.1:65535"),
        ("2001:db8::1", "[2001:db8::1]:50000"),
        ("[2001:db8::1]", "[2001:db8::1]:50000"),
        ("[2001:db8::1]:7", "[2001:db8::1]:7"),
    ],
)
def test_endpoint_is_read(text: str, expected: str) -> None:
    assert str(parse_endpoint(text)) == expected


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:0", "host:65536", "a b", "https://host", "[x]:1", "1:2:3:x"])
def test_other_texts_are_no_endpoint(text: str) -> None:
    with pytest.raises(UsageError, match="is not an endpoint"):
        parse_endpoint(text)
