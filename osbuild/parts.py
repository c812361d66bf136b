"""Parts of a root file system: a directory tree, and where each file in it comes from.

Every step that contributes files to the root writes its output in this form, so that the image can say of each file whose it is::

    <out>/tree/...          files and links as they will stand in the root; ownership and times do not count
    <out>/origins.json      {"usr/bin/runc": "runc 1.1.15+ds1-2", ...}
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path


class Part:
    """A part being written to, or read from, *out*."""

    def __init__(self, out: Path) -> None:
        self.tree = out / "tree"
        self._record = out / "origins.json"
        self.origins: dict[str, str] = {}

    @classmethod
    def new(cls, out: Path) -> Part:
        """An empty part; call :meth:`save` when all files are in."""
        part = cls(out)
        part.tree.mkdir()
        return part

    @classmethod
    def load(cls, out: Path) -> Part:
        """The part that an earlier step saved."""
        part = cls(out)
        part.origins = json.loads(part._record.read_text())
        return part

    def save(self) -> None:
        """Write the record of origins. Every file of the tree must have one."""
        present = set(files_below(self.tree))
        unknown, absent = present - self.origins.keys(), self.origins.keys() - present
        if unknown or absent:
            raise ValueError(
                f"part does not match its record: unknown {sorted(unknown)[:5]}, absent {sorted(absent)[:5]}"
            )
        self._record.write_text(json.dumps(self.origins, sort_keys=True, indent=0))

    def add(self, source: Path, name: str, origin: str) -> None:
        """Copy *source*, a file or a link, to *name*; what an earlier call put there is replaced."""
        target = self._place(name)
        shutil.copy2(source, target, follow_symlinks=False)
        self.origins[name] = origin

    def write(self, name: str, data: bytes, origin: str, *, executable: bool = False) -> None:
        """Make the file *name*."""
        target = self._place(name)
        target.write_bytes(data)
        target.chmod(0o755 if executable else 0o644)
        self.origins[name] = origin

    def link(self, name: str, destination: str, origin: str) -> None:
        """Make the symbolic link *name*."""
        self._place(name).symlink_to(destination)
        self.origins[name] = origin

    def _place(self, name: str) -> Path:
        """Where *name* goes, with nothing there yet: writing through a link would reach another file, even one of the host's."""
        target = self.tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        return target

    def adopt(self, origin: Callable[[str], str]) -> None:
        """Record an origin for every file of the tree that has none yet."""
        for name in files_below(self.tree):
            if name not in self.origins:
                self.origins[name] = origin(name)


def files_below(directory: Path) -> Iterator[str]:
    """Names of all files and links below *directory*, relative to it, sorted within each directory."""
    for root, directories, names in os.walk(directory):
        directories.sort()
        base = Path(root).relative_to(directory)
        linked = [name for name in directories if (Path(root) / name).is_symlink()]
        yield from (str(base / name) for name in sorted(names + linked))


_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@functools.cache
def _pattern(glob: str) -> re.Pattern[str]:
    # Not fnmatch, whose "*" crosses "/".
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    return re.compile("".join(_WILD.get(piece) or re.escape(piece) for piece in pieces) + r"\Z", re.DOTALL)


def matches(name: str, globs: Iterable[str]) -> bool:
    """True when *name* fits one of *globs*: ``*`` within a directory, ``**`` across."""
    return any(_pattern(glob).match(name) for glob in globs)


def select(names: Iterable[str], include: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Those of *names* that fit *include* and not *exclude*, in their order."""
    return [name for name in names if matches(name, include) and not matches(name, exclude)]
