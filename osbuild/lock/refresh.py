"""Making both locks anew, and saying what moved."""

from __future__ import annotations

from dataclasses import dataclass

from basalt.errors import UsageError
from osbuild import paths
from osbuild.lock import apt, debian, wheels
from osbuild.lock.model import DebianLock, WheelLock, load_debian, load_wanted, load_wheels, save_lock
from osbuild.progress import Progress
from osbuild.store import Store


@dataclass(frozen=True)
class Resolved:
    """Both locks as the archive and the wheel index would have them now."""

    debian: DebianLock
    wheels: WheelLock

    def save(self) -> None:
        """Replace the lock files."""
        save_lock(self.debian, paths.LOCKS / "debian.json")
        save_lock(self.wheels, paths.LOCKS / "wheels.json")


@dataclass(frozen=True)
class Moves:
    """What differs from the locks in use, a line each; empty lists when nothing does."""

    debian: list[str]
    wheels: list[str]


def resolve_locks(mirror: str | None, progress: Progress) -> Resolved:
    """Resolve every set of ``sets.toml`` against the archive and the wheel index."""
    wanted = load_wanted()
    private = apt.PrivateApt(Store().cache / "apt", apt.find_mirrors(mirror))
    progress.start("debian")
    with private.locked():
        packages = debian.make(private, wanted)
    progress.done("debian", f"{len(packages.packages)} packages")
    progress.start("wheels")
    files = wheels.make(wanted)
    progress.done("wheels", f"{len(files.wheels)} wheels")
    return Resolved(packages, files)


def compare(new: Resolved, *, strict: bool) -> Moves:
    """What moved since the locks in use.

    :param strict: an unusable lock is an error; otherwise all of it counts as new.
    :raises UsageError: with *strict*, when a lock is missing, edited, or made for another request.
    """
    try:
        return Moves(debian.moved(load_debian(), new.debian), wheels.moved(load_wheels(), new.wheels))
    except UsageError as error:
        if strict:
            raise
        return Moves([f"all of it: {error}"], [])


def refresh_locks(mirror: str | None, progress: Progress | None = None) -> Moves:
    """Replace both locks; returns what moved."""
    new = resolve_locks(mirror, progress or Progress())
    moves = compare(new, strict=False)
    new.save()
    return moves
