"""Making, checking and fetching what ``locks/debian.json`` names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from basalt.errors import BasaltError, StaleLockError
from osbuild.lock import apt
from osbuild.lock.blobs import blob, verified
from osbuild.lock.model import DebianLock, Package, Wanted

_BATCH = 32  # files per downloader call: enough to keep a connection busy, few enough to report progress


def make(private: apt.PrivateApt, wanted: Wanted) -> DebianLock:
    """Resolve every set of *wanted* against the archive as it is now."""
    private.update()
    sets = {name: private.resolve(s.packages, depends=s.depends) for name, s in sorted(wanted.debian.items())}
    versions = {package: version for members in sets.values() for package, version in members.items()}
    return DebianLock(
        schema=1,
        epoch=private.newest_release(),
        suite=apt.SUITE,
        requested=dict(wanted.debian),
        sets={name: sorted(members) for name, members in sets.items()},
        packages=dict(sorted(private.describe(versions).items())),
    )


def moved(old: DebianLock, new: DebianLock) -> list[str]:
    """What differs between two locks, a line each: "libc6 2.41-12 -> 2.41-13"."""
    lines = []
    for name in sorted(old.packages.keys() | new.packages.keys()):
        before, after = old.packages.get(name), new.packages.get(name)
        if before and after and before.sha256 != after.sha256:
            lines.append(f"{name} {before.version} -> {after.version}")
        elif before and not after:
            lines.append(f"{name} {before.version} (no longer needed)")
        elif after and not before:
            lines.append(f"{name} {after.version} (new)")
    return lines


def fetch(cache: Path, packages: Mapping[str, Package], private: apt.PrivateApt, note: apt.Note = apt.silent) -> None:
    """Bring all *packages* into the download cache; every file is verified against the lock.

    :raises StaleLockError: when the archive no longer has some, naming each with the version that took its place.
    :raises BasaltError: when the network is down or a file is not what the lock says.
    """
    blob(cache, "x").parent.mkdir(parents=True, exist_ok=True)
    missing = {name: package for name, package in packages.items() if not blob(cache, package.sha256).is_file()}
    names = sorted(missing)
    errors: list[str] = []
    for start in range(0, len(names), _BATCH):
        note(f"{start} of {len(names)} packages fetched")
        errors += _fetch_batch(cache, {name: missing[name] for name in names[start : start + _BATCH]}, private.mirrors)
    still = [name for name in names if not blob(cache, missing[name].sha256).is_file()]
    if still:
        raise _why_missing(still, missing, private, errors)


def _fetch_batch(cache: Path, batch: Mapping[str, Package], mirrors: apt.Mirrors) -> list[str]:
    partial = {name: blob(cache, f"{package.sha256}.part.{os.getpid()}") for name, package in batch.items()}
    errors = apt.download((mirrors.url(package), partial[name], package.sha256) for name, package in batch.items())
    for name, package in batch.items():
        if verified(partial[name], package.sha256):
            partial[name].rename(blob(cache, package.sha256))
        else:
            for left in (
                partial[name],
                partial[name].with_name(f"{partial[name].name}.FAILED"),
            ):  # so apt calls a wrong file
                left.unlink(missing_ok=True)
    return errors


def _why_missing(
    names: Sequence[str], packages: Mapping[str, Package], private: apt.PrivateApt, errors: Sequence[str]
) -> BasaltError:
    """Ask the archive what became of packages that could not be fetched."""
    listed = ", ".join(names)
    detail = "\n".join(errors[-10:])
    try:
        with private.locked():
            private.update()
            now = private.describe(private.newest(names))
    except BasaltError as error:
        return BasaltError(
            f"cannot fetch {len(names)} packages: {listed}",
            why=f"the archive cannot be reached ({error.why.strip() or error.what})",
            remedy="Check the network and the mirror; what was fetched before is kept",
        )
    gone = [
        f"{name} {packages[name].version} -> {now[name].version if name in now else '(no longer in the archive)'}"
        for name in names
        if name not in now or now[name].path != packages[name].path
    ]
    if gone:
        return StaleLockError(
            "the lock is stale: the archive has moved on",
            why="\n".join(gone),
            remedy="Run 'osbuild lock --update', review the change, and build again",
        )
    return BasaltError(
        f"cannot fetch {len(names)} packages: {listed}",
        why=detail or "what the mirror sends does not match the lock",
        remedy="A mirror in the middle of an update heals by itself; if it stays, the mirror or the lock was tampered with",
    )
