"""Steps that unpack locked Debian packages: trees to run tools in, and the pool that the image's files are picked from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from osbuild.graph import Step
from osbuild.lock import apt, debian
from osbuild.lock.model import DebianLock, Package
from osbuild.steps.unpack import unpack_pool, unpack_tree


def _members(lock: DebianLock, name: str) -> dict[str, str]:
    return {package: described.sha256 for package, described in lock.members(name).items()}


def tree_step(lock: DebianLock, name: str) -> Step:
    """All packages of set *name* in one directory, as a system to run programs of."""
    return Step(name, unpack_tree, params={"packages": _members(lock, name)})


def pool_step(lock: DebianLock, name: str) -> Step:
    """Each package of set *name* in a directory of its own, to pick files from and know whose they are."""
    return Step(f"{name}-pool", unpack_pool, params={"packages": _members(lock, name)})


def ensure_downloaded(cache: Path, lock: DebianLock, name: str, note: apt.Note, mirror: str | None = None) -> None:
    """Fetch what set *name* still lacks in the download cache."""
    packages: Mapping[str, Package] = lock.members(name)
    private = apt.PrivateApt(cache / "apt", apt.find_mirrors(mirror))
    debian.fetch(cache, packages, private, note)
