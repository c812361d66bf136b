"""The configuration on a node: applied whole or not at all, kept in two generations, survived by what was sound."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from basalt import pki
from basalt.config import ConfigError, Configuration, parse
from basalt.config.documents import RegistryAuth, RegistryConfig, RegistrySignature
from basalt.errors import BasaltError
from machined.configuration import Applied, ConfigurationOwner, ConflictError, Requester, Wish
from machined.effects import CONCERNS, Circumstances, describe, effects_of
from machined.generations import GenerationStore
from machined.reconcile import State


def document(hostname: str) -> bytes:
    return f"apiVersion: basalt.dev/v1alpha1\nkind: MachineConfig\nhostname: {hostname}\n".encode()


def owner(directory: Path) -> ConfigurationOwner:
    made = ConfigurationOwner(GenerationStore(directory / "config"))
    made.load()
    return made


ADA = Requester("ada")


def apply(target: ConfigurationOwner, text: bytes, **wish: Any) -> Applied:
    return asyncio.run(target.apply(text, "node.yaml", ADA, Wish(**wish)))


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_an_apply_stands_after_a_restart(tmp_path: Path) -> None:
    first = owner(tmp_path)
    assert (first.configured, first.number) == (False, 0)
    apply(first, document("alpha"))
    again = owner(tmp_path)
    assert (again.configured, again.number, again.current) == (True, 1, first.current)
    shown = again.show()
    assert shown.generation.applied_by == "ada"
    assert b"hostname: alpha" in shown.documents


def test_ten_generations_are_kept(tmp_path: Path) -> None:
    target = owner(tmp_path)
    for at in range(1, 13):
        apply(target, document(f"n{at}"))
    assert target.kept == tuple(range(3, 13))
    assert b"hostname: n3" in target.show(3).documents
    with pytest.raises(BasaltError, match="kept are: 3, 4"):
        target.show(2)


def test_the_same_again_makes_no_generation(tmp_path: Path) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))
    before = files(tmp_path)
    apply(
        target,
        b"---\nkind: MachineConfig\napiVersion: basalt.dev/v1alpha1\nhostname: ALPHA # the same, spelt otherwise\n",
    )
    assert files(tmp_path) == before


def test_a_dry_run_changes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))
    before = files(tmp_path)
    seen: list[Configuration] = []
    target._on_change = seen.append
    done = apply(target, document("beta"), dry_run=True)
    assert done.actions == ("set the hostname to beta",)
    assert "-hostname: alpha\n+hostname: beta" in done.diff
    assert (files(tmp_path), target.number, seen) == (before, 1, [])


@pytest.mark.parametrize("bad", [b"", b"kind: Foo", b"\xff\xfe", b"- [", document("a") + b"mtuu: 5\n", document("-")])
def test_an_invalid_document_changes_nothing(tmp_path: Path, bad: bytes) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))
    before = files(tmp_path)
    try:
        apply(target, bad)
    except ConfigError:
        assert files(tmp_path) == before
    else:
        assert bad == b""  # no documents at all are a configuration: all defaults
    assert target.configured


def test_the_second_of_two_that_expect_the_same_generation_is_told(tmp_path: Path) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))
    apply(target, document("beta"), expected=1)
    before = files(tmp_path)
    with pytest.raises(ConflictError, match="generation 2 stands, 1 was expected"):
        apply(target, document("gamma"), expected=1)
    assert files(tmp_path) == before


def test_concurrent_applies_come_one_after_the_other(tmp_path: Path) -> None:
    target = owner(tmp_path)

    async def many() -> list[int]:
        done = await asyncio.gather(*(target.apply(document(f"n{at}"), "n", ADA) for at in range(8)))
        return sorted(entry.generation for entry in done)

    assert asyncio.run(many()) == list(range(1, 9))
    assert owner(tmp_path).current == target.current


def test_a_damaged_generation_is_passed_over_and_reported(tmp_path: Path) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))
    apply(target, document("beta"))
    path = tmp_path / "config/00000002.json"
    record = json.loads(path.read_bytes())
    record["documents"] = record["documents"].replace("beta", "evil")
    path.write_text(json.dumps(record))
    again = ConfigurationOwner(GenerationStore(tmp_path / "config"))
    status = again.load()
    assert status.state is State.FAILED
    assert "generation 2" in status.reason
    assert "generation 1 is in force" in status.reason
    assert again.current == parse(document("alpha"), "")
    apply(again, document("gamma"))  # the next one is numbered past the damaged one
    assert (again.number, owner(tmp_path).number) == (3, 3)
    assert 1 in again.kept  # the last sound one before it is still there


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100, b'{"number": 1}'])
def test_nothing_but_damage_means_first_contact(tmp_path: Path, damage: bytes) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))
    (tmp_path / "config/00000001.json").write_bytes(damage)
    again = ConfigurationOwner(GenerationStore(tmp_path / "config"))
    assert again.load().state is State.FAILED
    assert not again.configured


def test_a_state_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    target = owner(tmp_path)
    apply(target, document("alpha"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target._standing.store.write = full  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="No space"):
        apply(target, document("beta"))
    assert target.number == 1
    assert target.current == parse(document("alpha"), "")


def test_what_must_be_on_state_first_is_done_first_and_once(tmp_path: Path) -> None:
    calls: list[str] = []
    target = ConfigurationOwner(
        GenerationStore(tmp_path / "config"),
        before_first=lambda: calls.append("pin"),
        on_change=lambda configuration: calls.append(configuration.machine.hostname if configuration.machine else ""),
    )
    apply(target, document("a"))
    apply(target, document("b"))
    assert calls == ["pin", "a", "b"]


def test_changes_in_words() -> None:
    old = parse(
        document("a")
        + b"---\napiVersion: basalt.dev/v1alpha1\nkind: NetworkConfig\nlinks:\n- name: eth0\n  dhcp4: true\n- name: eth1\n",
        "",
    )
    new = parse(
        b"apiVersion: basalt.dev/v1alpha1\nkind: NetworkConfig\nlinks:\n- name: eth0\n  addresses: [192.0.2.1/24]\n"
        b"dns: {servers: [192.0.2.53]}\n---\napiVersion: basalt.dev/v1alpha1\nkind: TimeConfig\nservers: [{address: ntp.example.org}]\n",
        "",
    )
    assert describe(old, new) == (
        "set the hostname to its default",
        "configure link eth0",
        "take back what was configured on link eth1",
        "change the DNS servers",
        "take the time from ntp.example.org",
    )
    assert describe(new, old)[-1] == "stop taking the time from servers"
    assert describe(new, parse(document("a"), ""))[1].startswith("ask for addresses by DHCP")


def test_changes_of_workloads_in_words() -> None:
    def running(*images: str) -> Configuration:
        documents = (
            f"apiVersion: basalt.dev/v1alpha1\nkind: WorkloadConfig\nname: {image[0]}\ncontainers: [{{name: c, image: {image}}}]\n"
            for image in images
        )
        return parse(document("a") + "".join(f"---\n{text}" for text in documents).encode(), "")

    old, new = running("a", "b", "c"), running("d", "c", "b:2")
    assert describe(old, new) == (
        "change workload b: its containers are made anew",
        "start workload d",
        "stop workload a and remove its containers; volumes stay",
    )
    assert describe(old, running("c", "b", "a")) == ()
    assert effects_of(old, new, Circumstances()).concerns == {"workloads"}


def test_changes_of_registries_in_words() -> None:
    def signed(*signatures: tuple[str, str], username: str = "a") -> Configuration:
        auth = RegistryAuth(host="a.example", username=username, password="b")
        entries = tuple(RegistrySignature(images=images, keys=(key,)) for images, key in signatures)
        return Configuration(registry=RegistryConfig(auth=(auth,), signatures=entries))

    old, new = (
        signed(("*", "A"), ("a.example", "A"), ("b.example", "A")),
        signed(("a.example", "B"), ("c.example", "A")),
    )
    assert describe(old, new) == (
        "change whose signatures count for images of a.example",
        "pull images of c.example with a signature alone",
        "no longer ask for signatures by the keys of all images",
        "no longer ask for signatures by the keys of images of b.example",
    )
    assert describe(old, signed(("b.example", "A"), ("a.example", "A"), ("*", "A"))) == ()
    assert describe(signed(), signed(username="b")) == ("change how container images are fetched",)


def test_every_field_of_a_configuration_is_somebodys_concern() -> None:
    assert tuple(CONCERNS) == Configuration.__struct_fields__


def test_documents_that_say_what_holds_without_them_change_nothing() -> None:
    certificate = pki.make_ca("operators", datetime.timedelta(days=1)).certificate_pem.decode().replace("\n", "\n  ")
    defaults = (
        "---\napiVersion: basalt.dev/v1alpha1\nkind: FirewallConfig\n"
        f"---\napiVersion: basalt.dev/v1alpha1\nkind: AccessConfig\nclientAuthorities:\n- |\n  {certificate}\n"
    )
    old, new = parse(document("a"), ""), parse(document("a") + defaults.encode(), "")
    assert describe(old, new) == ("accept client certificates of 1 configured authority",)
