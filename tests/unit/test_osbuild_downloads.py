"""What a lock names arrives as it was locked, or not at all. Packages come through apt's own helper, as in a build."""

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

from basalt.errors import BasaltError, StaleLockError
from osbuild.lock import apt, debian, wheels
from osbuild.lock.blobs import blob, verified
from osbuild.lock.model import Package, Wanted, Wheel, WheelLock, WheelSet
from tests.unit.osbuild_locks import WHEELS, debian_lock, package

# ---- packages


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
