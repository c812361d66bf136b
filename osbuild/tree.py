"""The root file system as one list of files, and as one canonical tar.

"Canonical" means: sorted by name, owned by root unless said otherwise, every time stamp the build's, modes reduced to 0755 and
0644. Two builds of the same files give the same bytes.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from basalt.errors import BasaltError
from osbuild.parts import Part, files_below

# Mount points and directories that must exist on a root that nobody can write to.
DIRECTORIES = ("dev", "efi", "etc", "proc", "root", "run", "state", "sys", "tmp", "usr", "var")


class File(msgspec.Struct, frozen=True):
    """One entry of the root: *path* without leading slash, *sha256* of the content of regular files, *target* of links."""

    path: str
    mode: int
    size: int
    origin: str
    sha256: str = ""
    target: str = ""


class Listing(msgspec.Struct, frozen=True):
    """All files and links of a root, sorted by path."""

    files: list[File]


def collect(parts: Sequence[Part]) -> list[tuple[File, Path]]:
    """All files of *parts* with where their content lies, sorted.

    :raises BasaltError: when two parts bring the same file.
    """
    found: dict[str, tuple[File, Path]] = {}
    for part in parts:
        for name in files_below(part.tree):
            path = part.tree / name
            entry = _describe(path, name, part.origins[name])
            if name in found:
                other = found[name][0].origin
                raise BasaltError(
                    f"two sources bring /{name}",
                    why=f"{other} and {entry.origin}",
                    remedy="Leave it out of one, in the profile",
                )
            found[name] = (entry, path)
    return [found[name] for name in sorted(found)]


def _describe(path: Path, name: str, origin: str) -> File:
    status = path.lstat()
    if path.is_symlink():
        return File(name, 0o777, 0, origin, target=str(path.readlink()))
    mode = 0o755 if status.st_mode & 0o111 else 0o644
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return File(name, mode, status.st_size, origin, sha256=digest)


def write_tar(entries: Iterable[tuple[File, Path]], directories: Iterable[str], target: Path, epoch: int) -> None:
    """Write the canonical tar of *entries* and all their parent *directories*; *epoch* is every time stamp.

    What changes most often (Basalt's own files) comes last, so that data before it keeps its place in the file system and an
    update can reuse those blocks.
    """
    pairs = list(entries)
    folders = set(directories)
    for entry, _ in pairs:
        folders.update(str(parent) for parent in Path(entry.path).parents if str(parent) != ".")
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for folder in ["", *sorted(folders)]:
            info = tarfile.TarInfo(f"./{folder}")
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, epoch
            archive.addfile(info)
        for entry, path in sorted(pairs, key=lambda pair: (pair[0].origin.startswith("basalt "), pair[0].path)):
            info = tarfile.TarInfo(f"./{entry.path}")
            info.mode, info.mtime = entry.mode, epoch
            if entry.target:
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
                archive.addfile(info)
            else:
                info.size = entry.size
                with path.open("rb") as stream:
                    archive.addfile(info, stream)
