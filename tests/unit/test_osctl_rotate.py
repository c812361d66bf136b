"""osctl ca rotate against small nodes: everything goes on working, and it can be interrupted anywhere."""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from basalt import contexts, pki
from basalt.client import Target, connect
from basalt.errors import BasaltError, ExitCode
from osctl import enrolment
from osctl.rotation import access, fleet, phases, record
from tests.unit.fake_node import FakeNode
from tests.unit.test_osctl import DOCUMENTS, Osctl, home, known_node, osctl

__all__ = ["home", "osctl"]

NAMES = ("n1", "n2", "n3")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "POLL_INTERVAL_S", 0.02)


@pytest.fixture
def nodes(osctl: Osctl, home: Path) -> Iterator[dict[str, FakeNode]]:
    """Three enrolled nodes of the current context."""
    (home / "node.yaml").write_text(DOCUMENTS)
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(known_node(name)) for name in NAMES}
        osctl("apply-config -n all -f node.yaml")
        yield made


class Callers:
    """Calls to every node all the time, each as a command would make it: from the context as it stands."""

    def __init__(self) -> None:
        self.failures: list[BasaltError] = []
        self.calls = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(name,)) for name in NAMES]

    def _call(self, name: str) -> None:
        while not self._over.is_set():
            try:
                with connect(Target.of_context(contexts.load().get(), name), timeout_s=20) as caller:
                    caller.version()
            except BasaltError as error:
                self.failures.append(error)
            self.calls += 1

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def fingerprint(node: FakeNode) -> str:
    assert node.server is not None
    return pki.fingerprint(pki.pem_to_der(node.issuer_pem))


@pytest.mark.parametrize("authority", ["client", "node"])
def test_rotation_replaces_the_authority_while_everything_works_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl, authority: str
) -> None:
    before = contexts.load().get()
    issuers = {name: fingerprint(node) for name, node in nodes.items()}
    with Callers() as callers:
        done = osctl.json(f"ca rotate --authority {authority}")
    assert callers.failures == []
    assert callers.calls > len(NAMES)
    after = contexts.load().get()
    assert not record.path_of("default").exists()
    assert done["nodes"] == list(NAMES)
    if authority == "client":
        assert (after.ca, after.node_ca) == (done["new"], before.node_ca)
        new = contexts.client_ca_pem(after)
        for node in nodes.values():
            assert [pki.pem_to_der(pem) for pem in node.client_authorities] == [pki.pem_to_der(new)]
            assert node.trial == 0
        osctl("gen client --name bob --role reader")
        assert Path("bob-ca.pem").read_bytes() == new
    else:
        assert (after.ca, after.node_ca) == (before.ca, done["new"])
        assert contexts.node_authority_of(after).certificate_pem.count(b"BEGIN") == 1
        assert {name: fingerprint(node) for name, node in nodes.items()}.items().isdisjoint(issuers.items())
    assert [answer["node"] for answer in osctl.json("version -n all")] == list(NAMES)


class KilledError(BaseException):
    """As SIGKILL would end it: nothing of the program runs any more."""


@pytest.mark.parametrize("authority", ["client", "node"])
def test_rotation_that_is_killed_at_any_step_goes_on_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each step in turn; the callers notice nothing of it."""
    real = record.save
    left = 0

    def dying(context: str, rotation: record.Rotation) -> None:
        nonlocal left
        real(context, rotation)
        left -= 1
        if left == 0:
            raise KilledError

    monkeypatch.setattr(record, "save", dying)
    survived = 0
    with Callers() as callers:
        while True:
            # One step more each time; what is done already must be found done.
            left = survived + 1
            try:
                osctl(f"ca rotate --authority {authority}")
                break
            except KilledError:
                survived += 1
                assert record.load("default") is not None
                assert survived < 20
    assert survived > 5
    assert callers.failures == []
    assert not record.path_of("default").exists()
    assert all(node.trial == 0 for node in nodes.values())


def test_killed_between_trial_and_confirmation_is_confirmed_by_the_next_run_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KilledError

        patch.setattr(fleet.Fleet, "keep", die)
        with pytest.raises(KilledError):
            osctl("ca rotate --authority client")
    assert nodes["n1"].trial
    osctl("ca rotate --authority client")
    assert "going on with the rotation of the client authority in the phase 'add' at n1" in osctl.err
    assert nodes["n1"].trial == 0
    assert len(nodes["n1"].client_authorities) == 1


def test_trial_that_ran_out_is_made_again_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KilledError

        patch.setattr(fleet.Fleet, "keep", die)
        with pytest.raises(KilledError):
            osctl("ca rotate --authority client")
    nodes["n1"].revert()
    osctl("ca rotate --authority client")
    assert len(nodes["n1"].client_authorities) == 1


def test_node_that_does_not_answer_stops_the_rotation_before_the_removal_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl
) -> None:
    nodes["n2"].stop()
    osctl("ca rotate --authority client", code=ExitCode.UNREACHABLE)
    assert "the rotation stopped in the phase 'add': n2" in osctl.err
    assert "osctl ca rotate --authority client" in osctl.err
    assert [len(nodes[name].client_authorities) for name in ("n1", "n3")] == [2, 2], "the others have done their part"
    assert osctl.json("version -n n1,n3")[0]["node"] == "n1"
    osctl("ca rotate --authority node", code=ExitCode.USAGE)
    assert "is under way" in osctl.err
    osctl("context rename default other", code=ExitCode.USAGE)
    shown = osctl.json("ca rotate --authority client --dry-run", code=ExitCode.FAILED)
    assert (shown["under_way"], shown["phase"]) == (True, "add")
    nodes["n2"].start()
    osctl("ca rotate --authority client")
    assert [len(node.client_authorities) for node in nodes.values()] == [1, 1, 1]


def test_node_that_is_gone_for_good_is_left_out_against_fake_nodes(nodes: dict[str, FakeNode], osctl: Osctl) -> None:
    nodes["n2"].stop()
    osctl("ca rotate --authority node", code=ExitCode.UNREACHABLE)
    osctl("context remove-node n2")
    assert osctl.json("ca rotate --authority node")["nodes"] == ["n1", "n3"]


def test_old_certificate_that_still_works_is_told_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "SETTLING_S", 0.1)
    old = contexts.client_ca_pem(contexts.load().get())

    class Stubborn(FakeNode):
        @property
        def client_authorities(self) -> list[bytes]:
            return [*super().client_authorities, old]

    nodes["n3"].__class__ = Stubborn
    osctl("ca rotate --authority client", code=ExitCode.FAILED)
    assert "still accepts the old certificate" in osctl.err
    assert "'remove': n3" in osctl.err


def test_dry_run_shows_every_step_and_changes_nothing_against_fake_nodes(
    nodes: dict[str, FakeNode], osctl: Osctl
) -> None:
    before = json.dumps(osctl.json("context show"))
    text = osctl("ca rotate --authority client --dry-run")
    assert text.endswith("nothing was changed (--dry-run)\n")
    shown = osctl.json("ca rotate --authority client --dry-run")
    assert [step["where"] for step in shown["steps"] if step["phase"] == "remove"] == [*NAMES, *NAMES]
    assert shown["nodes"] == [{"node": name, "ready": True, "why": ""} for name in NAMES]
    assert json.dumps(osctl.json("context show")) == before
    assert not record.path_of("default").exists()
    assert [node.generation for node in nodes.values()] == [1, 1, 1]


def test_other_authorities_and_settings_of_the_access_config_stay() -> None:
    old, new, other = (pki.make_ca(name, datetime.timedelta(days=9)).certificate_pem.decode() for name in "abc")
    documents = access.with_authorities(DOCUMENTS.encode(), (old, other))
    documents = documents.replace(b"kind: AccessConfig\n", b"kind: AccessConfig\nrevokedSerials: [ab12]\n")
    both = access.with_authorities(documents, access.added(access.authorities_of(documents, ""), new))
    assert access.authorities_of(both, "") == (old, other, new)
    assert access.added((old, new), new.replace("\n", "\r\n")) == (old, new.replace("\n", "\r\n"))
    last = access.with_authorities(both, access.removed((old, other, new), old))
    assert access.authorities_of(last, "") == (other, new)
    assert b"ab12" in last
    assert access.authorities_of(DOCUMENTS.encode(), old) == (old,)


def test_every_rotation_looks_before_it_goes_on() -> None:
    for steps in phases.PHASES.values():
        assert [phase.name for phase in steps] == ["add", "switch", "remove"]
        assert all(phase.check is not None for phase in steps)


def test_only_one_rotation_at_a_time(osctl: Osctl) -> None:
    contexts.ensure_context()
    contexts.add_node("n1", "192.0.2.1", "0" * 64)
    with record.alone("default"):
        osctl("ca rotate --authority client", code=ExitCode.USAGE)
    assert "another osctl rotates" in osctl.err
