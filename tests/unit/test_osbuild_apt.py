"""The private apt: which mirror it asks, what it makes of the answers, and whom it trusts."""

from __future__ import annotations

from pathlib import Path

import pytest

from basalt.errors import BasaltError, UsageError
from osbuild.lock import apt, debian
from osbuild.lock.model import Package, PackageSet, Wanted
from tests.unit.osbuild_locks import WHEELS


def fake_apt(directory: Path, body: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "apt-get").write_text(f"#!/bin/sh\n{body}\n")
    (directory / "apt-get").chmod(0o755)


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OSBUILD_MIRROR", "OSBUILD_SECURITY_MIRROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_mirror")
def test_mirror_is_the_one_given_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSBUILD_MIRROR", "http://other/debian")
    found = apt.find_mirrors("http://mine/debian/")
    assert found == apt.Mirrors("http://mine/debian", "http://mine/debian-security")


@pytest.mark.usefixtures("no_mirror")
def test_mirror_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSBUILD_MIRROR", "http://other/debian")
    monkeypatch.setenv("OSBUILD_SECURITY_MIRROR", "http://safe/debian-security/")
    assert apt.find_mirrors() == apt.Mirrors("http://other/debian", "http://safe/debian-security")


@pytest.mark.usefixtures("no_mirror")
def test_mirror_of_the_host_is_what_its_apt_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ["http://third/party", "http://near/debian/", "http://near/debian/", "http://far/debian-security/"]
    fake_apt(tmp_path / "bin", "\n".join(f"echo {line}" for line in lines))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert apt.find_mirrors() == apt.Mirrors("http://near/debian", "http://far/debian-security")


@pytest.mark.usefixtures("no_mirror")
def test_mirror_lists_of_cloud_images_are_looked_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("debian", "debian-security"):
        (tmp_path / f"{name}.list").write_text(
            f"# near ones first\nhttp://near/{name}\tpriority:1\nhttp://far/{name}\n"
        )
    lists = [f"mirror+file://{tmp_path}/{name}.list" for name in ("debian", "debian-security", "gone")]
    fake_apt(tmp_path / "bin", "\n".join(f"echo {line}" for line in lists))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert apt.find_mirrors() == apt.Mirrors("http://near/debian", "http://near/debian-security")


@pytest.mark.usefixtures("no_mirror")
def test_host_without_a_debian_source_is_asked_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_apt(tmp_path / "bin", "echo http://archive/ubuntu/")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UsageError) as caught:
        apt.find_mirrors()
    assert "--mirror" in caught.value.remedy


def test_host_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BasaltError, match="apt-get is not installed"):
        apt.download([("file:/x", tmp_path / "x", "00")])


class SaidByApt(apt.PrivateApt):
    """apt whose answers are given."""

    def __init__(self, directory: Path, **said: str) -> None:
        super().__init__(directory, apt.Mirrors("http://a/debian", "http://a/debian-security"))
        self.said = said

    def _run(self, program: str, *argv: str) -> str:
        return self.said[argv[0].strip("-")]


POLICY = """bash:
  Installed: (none)
  Candidate: 5.2.37-2+b10
  Version table:
     5.2.37-2+b10 500
        500 http://a/debian trixie/main amd64 Packages
virtual-only:
  Installed: (none)
  Candidate: (none)
  Version table:
"""
SIMULATED = """NOTE: This is only a simulation!
Inst libc6 (2.41-12 Debian:13.1/stable [amd64])
Inst bash (5.2.37-2+b10 Debian:13.1/stable [amd64]) []
Conf libc6 (2.41-12 Debian:13.1/stable [amd64])
"""
SHOWN = """Package: bash
Version: 5.2.37-2+b10
Architecture: amd64
Filename: pool/main/b/bash/bash_5.2.37-2+b10_amd64.deb
Size: 1500
SHA256: aa
Description: GNU Bourne Again SHell
 Version: of the text, not of the package

Package: libc6
Version: 2.41-12+deb13u1
Architecture: amd64
Filename: pool/updates/main/g/glibc/libc6_2.41-12+deb13u1_amd64.deb
Size: 2800
SHA256: bb
"""


def test_newest_versions_leave_out_what_the_archive_does_not_have(tmp_path: Path) -> None:
    private = SaidByApt(tmp_path, policy=POLICY)
    assert private.newest(["bash", "virtual-only", "unknown"]) == {"bash": "5.2.37-2+b10"}


def test_set_without_dependencies_names_what_the_archive_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match="trixie has no package unknown, virtual-only"):
        SaidByApt(tmp_path, policy=POLICY).resolve(["bash", "virtual-only", "unknown"], depends=False)


def test_dependencies_are_what_apt_would_install_on_an_empty_system(tmp_path: Path) -> None:
    resolved = SaidByApt(tmp_path, simulate=SIMULATED).resolve(["bash"], depends=True)
    assert resolved == {"libc6": "2.41-12", "bash": "5.2.37-2+b10"}


def test_packages_are_described_by_the_signed_index(tmp_path: Path) -> None:
    found = SaidByApt(tmp_path, show=SHOWN).describe({"bash": "5.2.37-2+b10", "libc6": "2.41-12+deb13u1"})
    assert found["bash"] == Package(
        "5.2.37-2+b10", "amd64", "main", "pool/main/b/bash/bash_5.2.37-2+b10_amd64.deb", 1500, "aa"
    )
    assert found["libc6"].archive == "security"
    assert SaidByApt(tmp_path).describe({}) == {}
    with pytest.raises(BasaltError, match="no entry for tar"):
        SaidByApt(tmp_path, show=SHOWN).describe({"bash": "", "tar": "1"})


def test_time_of_a_lock_is_when_its_newest_index_was_signed(tmp_path: Path) -> None:
    private = SaidByApt(tmp_path)
    with pytest.raises(BasaltError, match="incomplete"):
        private.newest_release()
    (tmp_path / "state" / "lists").mkdir(parents=True)
    for name, date in (("old", "Thu, 01 Jan 1970 00:00:10 UTC"), ("new", "Thu, 01 Jan 1970 00:01:00 UTC")):
        (tmp_path / "state" / "lists" / f"{name}_InRelease").write_text(f"Origin: Debian\nDate: {date}\n")
    assert private.newest_release() == 60


def test_lock_is_made_of_all_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = SaidByApt(tmp_path, policy=POLICY, simulate=SIMULATED, show=SHOWN.replace("+deb13u1", ""), update="")
    monkeypatch.setattr(private, "newest_release", lambda: 42)
    wanted = Wanted({"b": PackageSet(["bash"]), "a": PackageSet(["bash"], depends=False)}, WHEELS.requested)
    lock = debian.make(private, wanted)
    assert lock.sets == {"a": ["bash"], "b": ["bash", "libc6"]}
    assert list(lock.packages) == ["bash", "libc6"]
    assert (lock.epoch, lock.suite, lock.requested) == (42, "trixie", wanted.debian)


def test_private_apt_asks_only_the_mirror_and_trusts_only_debians_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.gpg"
    monkeypatch.setattr(apt, "KEYRING", keys)
    private = apt.PrivateApt(tmp_path / "apt", apt.Mirrors(f"file:{tmp_path}/debian", f"file:{tmp_path}/security"))
    with pytest.raises(BasaltError, match="archive keys are missing"), private.locked():
        pytest.fail("entered without keys")
    keys.touch()
    with private.locked():
        sources = (tmp_path / "apt" / "sources.list").read_text().splitlines()
        assert len(sources) == 3
        assert all(line.startswith(f"deb [signed-by={keys}] file:{tmp_path}/") for line in sources)
        with pytest.raises(BasaltError) as caught:
            private.update()
    assert caught.value.what == "cannot update the package index"
    assert f"file:{tmp_path}/debian" in caught.value.why
