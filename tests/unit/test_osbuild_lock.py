"""The locks: never believed when somebody edited them, and precise about what moved. Downloads run through apt's own helper."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from basalt.errors import BasaltError, StaleLockError, UsageError
from osbuild.lock import apt, debian, refresh, wheels
from osbuild.lock.blobs import blob, verified
from osbuild.lock.model import (
    DebianLock,
    Package,
    PackageSet,
    Wanted,
    Wheel,
    WheelLock,
    WheelSet,
    load_debian,
    load_wheels,
    save_lock,
)

SETS = """
[debian.tools]
packages = ["bash", "tar"]

[debian.source]
packages = ["linux-source-6.12"]
depends = false

[wheels]
python = "3.13"
packages = ["msgspec"]
"""
WHEELS = WheelLock(1, WheelSet("3.13", ["msgspec"]), {"msgspec": Wheel("0.19.0", "msgspec-0.19.0.whl", "ab" * 32)})


def package(name: str, version: str = "1.0-1", *, archive: str = "main", content: bytes | None = None) -> Package:
    data = f"{name} {version}".encode() if content is None else content
    path = f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb"
    return Package(version, "amd64", archive, path, len(data), hashlib.sha256(data).hexdigest())


def debian_lock(*names: str, epoch: int = 1_750_000_000) -> DebianLock:
    chosen = names or ("bash", "tar", "libc6")
    return DebianLock(
        schema=1,
        epoch=epoch,
        suite="trixie",
        requested={"tools": PackageSet(["bash", "tar"]), "source": PackageSet(["linux-source-6.12"], depends=False)},
        sets={"tools": sorted(chosen), "source": []},
        packages={name: package(name) for name in sorted(chosen)},
    )


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    (tmp_path / "sets.toml").write_text(SETS)
    save_lock(debian_lock(), tmp_path / "debian.json")
    save_lock(WHEELS, tmp_path / "wheels.json")
    return tmp_path


# ---- reading and writing


def test_locks_come_back_as_they_were_saved(locks: Path) -> None:
    assert load_debian(locks) == debian_lock()
    assert load_wheels(locks) == WHEELS
    assert sorted(load_debian(locks).members("tools")) == ["bash", "libc6", "tar"]


def test_equal_locks_are_equal_files(locks: Path) -> None:
    before = (locks / "debian.json").read_bytes()
    backwards = msgspec.structs.replace(
        debian_lock(),
        packages=dict(reversed(debian_lock().packages.items())),
        requested=dict(reversed(debian_lock().requested.items())),
    )
    save_lock(backwards, locks / "debian.json")
    assert (locks / "debian.json").read_bytes() == before
    assert before.endswith(b"}\n")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("debian.json", "1.0-1", "1.0-2"), ("debian.json", "trixie", "sid"), ("wheels.json", "0.19.0", "0.19.1")],
)
def test_lock_edited_by_hand_is_refused(locks: Path, file: str, old: str, new: str) -> None:
    text = (locks / file).read_text()
    (locks / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load_debian(locks) if file == "debian.json" else load_wheels(locks)
    assert "edited by hand" in caught.value.what
    assert "version control" in caught.value.remedy
    assert "osbuild lock --update" in caught.value.remedy


def test_lock_that_only_an_editor_reformatted_is_accepted(locks: Path) -> None:
    text = (locks / "debian.json").read_text()
    (locks / "debian.json").write_text(json.dumps(json.loads(text)))
    assert load_debian(locks) == debian_lock()


@pytest.mark.parametrize("content", ["", "[]", "[1]", "7", "{", '{"schema": 1}', "null"])
def test_what_is_no_lock_is_refused_with_the_command_that_makes_one(locks: Path, content: str) -> None:
    (locks / "debian.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        load_debian(locks)
    assert "debian.json" in caught.value.what
    assert "osbuild lock --update" in caught.value.remedy


def test_lock_with_its_digest_but_other_fields_is_refused(locks: Path) -> None:
    save_lock(WHEELS, locks / "debian.json")
    with pytest.raises(UsageError, match="cannot read the lock"):
        load_debian(locks)


def test_missing_lock_is_named(locks: Path) -> None:
    (locks / "wheels.json").unlink()
    with pytest.raises(UsageError, match=r"there is no lock wheels\.json"):
        load_wheels(locks)


def test_changed_request_names_the_set(locks: Path) -> None:
    (locks / "sets.toml").write_text(SETS.replace('"tar"', '"cpio"'))
    with pytest.raises(UsageError) as caught:
        load_debian(locks)
    assert caught.value.why == "sets.toml changed tools"
    assert load_wheels(locks) == WHEELS


def test_set_added_and_set_removed_are_named(locks: Path) -> None:
    text = SETS.replace("[debian.source]", "[debian.vm-tools]")
    (locks / "sets.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_debian(locks)
    assert caught.value.why == "sets.toml changed source, vm-tools"


def test_changed_wheels_are_noticed(locks: Path) -> None:
    (locks / "sets.toml").write_text(SETS.replace('"msgspec"', '"msgspec", "PyYAML"'))
    with pytest.raises(UsageError, match="made for other wheels"):
        load_wheels(locks)
    assert load_debian(locks) == debian_lock()


@pytest.mark.parametrize("text", ["[debian", SETS + "\n[extra]\n", SETS.replace("depends = false", "depends = 3")])
def test_broken_sets_are_refused(locks: Path, text: str) -> None:
    (locks / "sets.toml").write_text(text)
    with pytest.raises(UsageError, match=r"sets\.toml"):
        load_debian(locks)


# ---- what moved


def test_moved_packages_are_named_with_both_versions() -> None:
    old, new = debian_lock("bash", "gone", "libc6"), debian_lock("bash", "libc6", "new")
    new = msgspec.structs.replace(new, packages=new.packages | {"libc6": package("libc6", "1.0-2")})
    assert debian.moved(old, new) == ["gone 1.0-1 (no longer needed)", "libc6 1.0-1 -> 1.0-2", "new 1.0-1 (new)"]
    assert debian.moved(old, old) == []


def test_moved_wheels_are_named_with_both_versions() -> None:
    new = msgspec.structs.replace(
        WHEELS, wheels={"msgspec": Wheel("0.20.0", "x", "cd" * 32), "six": Wheel("1", "y", "ef" * 32)}
    )
    assert wheels.moved(WHEELS, new) == ["msgspec 0.19.0 -> 0.20.0", "six - -> 1"]


def test_comparison_with_an_unusable_lock_is_an_error_only_when_it_must_hold(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable() -> DebianLock:
        raise UsageError("there is no lock debian.json")

    monkeypatch.setattr(refresh, "load_debian", unusable)
    new = refresh.Resolved(debian_lock(), WHEELS)
    assert refresh.compare(new, strict=False).debian == ["all of it: there is no lock debian.json"]
    with pytest.raises(UsageError):
        refresh.compare(new, strict=True)


# ---- downloads


class FakeArchive(apt.PrivateApt):
    """The archive's index as a table; the files lie in a directory, which apt's downloader reads."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "apt", apt.Mirrors(f"file:{directory}/debian", f"file:{directory}/security"))
        self.root = directory / "debian"
        self.index: dict[str, Package] = {}
        self.reachable = True

    def add(self, name: str, version: str = "1.0-1", content: bytes | None = None) -> None:
        """Publish a package; *content* other than what its hash promises."""
        described = package(name, version)
        self.index[name] = described
        path = self.root / described.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} {version}".encode() if content is None else content)

    def drop(self, name: str) -> None:
        (self.root / self.index.pop(name).path).unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def update(self) -> None:
        if not self.reachable:
            raise BasaltError("cannot update the package index", why="Temporary failure resolving the mirror")

    def newest(self, names: Sequence[str]) -> dict[str, str]:
        return {name: self.index[name].version for name in names if name in self.index}

    def describe(self, versions: Mapping[str, str]) -> dict[str, Package]:
        return {name: self.index[name] for name in versions}


@pytest.fixture
def archive(tmp_path: Path) -> FakeArchive:
    made = FakeArchive(tmp_path)
    for name in ("bash", "libc6", "tar"):
        made.add(name)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def downloads(cache: Path) -> set[str]:
    return {path.name for path in (cache / "downloads" / "sha256").iterdir()}


def digests(*names: str) -> set[str]:
    return {package(name).sha256 for name in names}


def test_packages_arrive_under_their_hash(archive: FakeArchive, cache: Path) -> None:
    debian.fetch(cache, debian_lock().packages, archive)
    assert downloads(cache) == digests("bash", "libc6", "tar")
    assert verified(blob(cache, package("tar").sha256), package("tar").sha256)


def test_what_is_there_is_not_fetched_again(archive: FakeArchive, cache: Path) -> None:
    debian.fetch(cache, debian_lock().packages, archive)
    archive.reachable = False
    for name in list(archive.index):
        archive.drop(name)
    debian.fetch(cache, debian_lock().packages, archive)


def test_many_packages_come_in_batches_and_progress_is_told(archive: FakeArchive, cache: Path) -> None:
    names = [f"package{number:02}" for number in range(70)]
    for name in names:
        archive.add(name)
    told: list[str] = []
    debian.fetch(cache, debian_lock(*names).packages, archive, told.append)
    assert told == ["0 of 70 packages fetched", "32 of 70 packages fetched", "64 of 70 packages fetched"]
    assert len(downloads(cache)) == 70


def test_stale_lock_names_each_package_with_the_version_that_took_its_place(archive: FakeArchive, cache: Path) -> None:
    archive.drop("bash")
    archive.add("bash", "1.0-2")
    archive.drop("libc6")
    with pytest.raises(StaleLockError) as caught:
        debian.fetch(cache, debian_lock().packages, archive)
    assert caught.value.why.splitlines() == ["bash 1.0-1 -> 1.0-2", "libc6 1.0-1 -> (no longer in the archive)"]
    assert "osbuild lock --update" in caught.value.remedy
    assert downloads(cache) == digests("tar"), "what did come is kept"


def test_tampered_package_is_refused_and_not_kept(archive: FakeArchive, cache: Path) -> None:
    archive.add("bash", content=b"bash 1.0-6")  # of the same size
    with pytest.raises(BasaltError) as caught:
        debian.fetch(cache, debian_lock().packages, archive)
    assert not isinstance(caught.value, StaleLockError)
    assert caught.value.what == "cannot fetch 1 packages: bash"
    assert "Hash Sum mismatch" in caught.value.why
    assert "tampered" in caught.value.remedy
    assert downloads(cache) == digests("libc6", "tar")


def test_hash_is_checked_again_whatever_the_downloader_says(
    archive: FakeArchive, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(items: Iterable[tuple[str, Path, str]]) -> list[str]:
        for _, target, _ in items:
            target.write_bytes(b"something else")
        return []

    monkeypatch.setattr(apt, "download", careless)
    with pytest.raises(BasaltError) as caught:
        debian.fetch(cache, debian_lock().packages, archive)
    assert caught.value.why == "what the mirror sends does not match the lock"
    assert downloads(cache) == set()


def test_without_network_the_missing_packages_are_named(archive: FakeArchive, cache: Path) -> None:
    archive.reachable = False
    for name in ("bash", "tar"):
        (archive.root / package(name).path).unlink()
    with pytest.raises(BasaltError) as caught:
        debian.fetch(cache, debian_lock().packages, archive)
    assert caught.value.what == "cannot fetch 2 packages: bash, tar"
    assert "Temporary failure resolving the mirror" in caught.value.why


def test_security_updates_come_from_the_security_archive() -> None:
    mirrors = apt.Mirrors("http://mirror/debian", "http://mirror/debian-security")
    assert mirrors.url(package("bash")).startswith("http://mirror/debian/pool/")
    assert mirrors.url(package("bash", archive="security")).startswith("http://mirror/debian-security/pool/")


# ---- apt


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


# ---- wheels


@pytest.mark.parametrize("name", ["PyYAML", "pyyaml", "Py-YAML", "py_.yaml"])
def test_names_of_wheels_compare_as_pep_503_says(name: str) -> None:
    assert wheels.normalised(name).replace("-", "") == "pyyaml"
    assert wheels.normalised("Qemu_QMP") == wheels.normalised("qemu.qmp") == "qemu-qmp"


def test_wheel_lock_holds_names_and_hashes_and_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    item = {
        "metadata": {"name": "Msg_Spec", "version": "0.19.0"},
        "download_info": {
            "url": "https://index.example/simple/msgspec-0.19.0-cp313.whl",
            "archive_info": {"hashes": {"sha256": "ab" * 32}},
        },
    }
    asked: list[str] = []

    def pip(*argv: str) -> str:
        asked.extend(argv)
        return json.dumps({"install": [item]})

    monkeypatch.setattr(wheels, "_pip", pip)
    lock = wheels.make(Wanted({}, WheelSet("3.13", ["msgspec"])))
    assert lock.wheels == {"msg-spec": Wheel("0.19.0", "msgspec-0.19.0-cp313.whl", "ab" * 32)}
    assert b"index.example" not in msgspec.json.encode(lock)
    assert ("--python-version", "3.13") in list(itertools.pairwise(asked)), "for the node's Python, not ours"
    assert "--only-binary=:all:" in asked


@dataclasses.dataclass
class FakeIndex:
    """pip with one wheel to give."""

    content: bytes

    def __call__(self, *argv: str) -> str:
        directory = Path(argv[argv.index("--dest") + 1])
        requirements = Path(argv[argv.index("--requirement") + 1]).read_text()
        assert "--require-hashes" in argv
        assert requirements.startswith("msgspec==0.19.0 --hash=sha256:")
        (directory / "msgspec-0.19.0.whl").write_bytes(self.content)
        return ""


def wheel_of(content: bytes) -> WheelLock:
    wheel = Wheel("0.19.0", "msgspec-0.19.0.whl", hashlib.sha256(content).hexdigest())
    return msgspec.structs.replace(WHEELS, wheels={"msgspec": wheel})


def test_wheels_arrive_under_their_hash_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_pip", FakeIndex(b"wheel"))
    wheels.fetch(cache, wheel_of(b"wheel"))
    assert downloads(cache) == {hashlib.sha256(b"wheel").hexdigest()}
    monkeypatch.setattr(wheels, "_pip", None)
    wheels.fetch(cache, wheel_of(b"wheel"))


def test_wheel_that_is_not_what_was_locked_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_pip", FakeIndex(b"other"))
    with pytest.raises(BasaltError, match="not what the lock says"):
        wheels.fetch(cache, wheel_of(b"wheel"))
    assert downloads(cache) == set()


def test_wheels_that_cannot_be_had_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(*argv: str) -> str:
        raise BasaltError("pip download failed", why="no route to host")

    monkeypatch.setattr(wheels, "_pip", pip)
    with pytest.raises(BasaltError) as caught:
        wheels.fetch(cache, WHEELS)
    assert caught.value.what == "cannot fetch 1 wheels: msgspec"
    assert caught.value.why == "no route to host"
