"""The lock files as types: reading them with every doubt raised, writing them durably and in one canonical form."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from basalt.errors import UsageError
from basalt.files import write_atomic
from osbuild import paths

UPDATE = "Run 'osbuild lock --update'"


class PackageSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of ``locks/sets.toml``: *packages* by name; *depends* brings in what they depend on."""

    packages: list[str]
    depends: bool = True


class WheelSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requirements (PEP 508) to be met by binary wheels for *python* ("3.13") on glibc."""

    python: str
    packages: list[str]


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of ``locks/sets.toml``."""

    debian: dict[str, PackageSet]
    wheels: WheelSet


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Debian package as the archive's signed index describes it. *archive* is main or security, *path* relative to it."""

    version: str
    architecture: str
    archive: str
    path: str
    size: int
    sha256: str


class DebianLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``locks/debian.json``: *requested* repeats what was asked, so that a changed request is noticed.

    *epoch* is when the archive signed the newest of the indices, in POSIX seconds: the time stamp of everything built from the lock.
    """

    schema: int
    epoch: int
    suite: str
    requested: dict[str, PackageSet]
    sets: dict[str, list[str]]
    packages: dict[str, Package]

    def members(self, name: str) -> dict[str, Package]:
        """Packages of set *name*, by package name."""
        return {package: self.packages[package] for package in self.sets[name]}


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wheel by file name and hash."""

    version: str
    filename: str
    sha256: str


class WheelLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``locks/wheels.json``; wheels by normalised project name."""

    schema: int
    requested: WheelSet
    wheels: dict[str, Wheel]


def load_wanted(directory: Path = paths.LOCKS) -> Wanted:
    """Read ``sets.toml``.

    :raises UsageError: when it is no such file.
    """
    path = directory / "sets.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Wanted)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"cannot read {path}", why=str(error), remedy="Correct the file") from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_lock(lock: DebianLock | WheelLock, path: Path) -> None:
    """Write *lock* with its own digest, one entry a line, so that a review sees what moved."""
    content = msgspec.to_builtins(lock)
    text = json.dumps(content | {"digest": _digest(content)}, indent=1, sort_keys=True)
    write_atomic(path, text.encode() + b"\n")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        digest = content.pop("digest", "")
    except FileNotFoundError:
        raise UsageError(f"there is no lock {path.name}", remedy=UPDATE) from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"cannot read the lock {path}", why=str(error), remedy=UPDATE) from error
    if digest != _digest(content):
        raise UsageError(
            f"the lock {path} was edited by hand",
            why="its content does not match its own digest",
            remedy=f"Restore it from version control, or make a new one. {UPDATE}",
        )
    return dict(content)


def load_debian(directory: Path = paths.LOCKS) -> DebianLock:
    """Read ``debian.json`` and hold it against ``sets.toml``.

    :raises UsageError: when it is missing, edited, or made for another request.
    """
    path = directory / "debian.json"
    wanted = load_wanted(directory)
    try:
        lock = msgspec.convert(_load(path), DebianLock)
    except msgspec.ValidationError as error:
        raise UsageError(f"cannot read the lock {path}", why=str(error), remedy=UPDATE) from error
    differing = sorted(
        name
        for name in wanted.debian.keys() | lock.requested.keys()
        if wanted.debian.get(name) != lock.requested.get(name)
    )
    if differing:
        raise UsageError(
            f"the lock {path.name} was made for other sets",
            why=f"sets.toml changed {', '.join(differing)}",
            remedy=UPDATE,
        )
    return lock


def load_wheels(directory: Path = paths.LOCKS) -> WheelLock:
    """Read ``wheels.json`` and hold it against ``sets.toml``.

    :raises UsageError: when it is missing, edited, or made for another request.
    """
    path = directory / "wheels.json"
    wanted = load_wanted(directory)
    try:
        lock = msgspec.convert(_load(path), WheelLock)
    except msgspec.ValidationError as error:
        raise UsageError(f"cannot read the lock {path}", why=str(error), remedy=UPDATE) from error
    if lock.requested != wanted.wheels:
        raise UsageError(
            f"the lock {path.name} was made for other wheels", why="sets.toml changed [wheels]", remedy=UPDATE
        )
    return lock
