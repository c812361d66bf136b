"""What may never be in a root: shells, package managers, setuid files, documentation, and ELF files nothing needs.

Pure: from the list of files and the ELF facts to a list of violations, in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from osbuild.elf import Elf
from osbuild.parts import matches
from osbuild.tree import File

_SHELLS = frozenset(
    "sh bash dash ash zsh ksh mksh csh tcsh fish busybox toybox execlineb login sulogin su sudo sshd agetty getty".split()  # noqa: SIM905
)
_PACKAGE_MANAGERS = {"apt", "apt-get", "dpkg", "rpm", "dnf", "yum", "apk", "pip", "pip3", "snap"}
_LIBRARIES = "usr/lib/x86_64-linux-gnu"  # directories below it hold plugins, which their programs open by name
_DOCUMENTATION = (
    *(f"usr/share/{name}/**" for name in ("doc", "man", "info", "locale", "lintian")),
    "**/*.pyi",
    "**/*.html",
)


def violations(
    files: Sequence[File], elves: Mapping[str, Elf], *, opened_by_name: frozenset[str] = frozenset()
) -> list[str]:
    """Every reason why these files must not become a root.

    :param elves: ELF facts by path.
    :param opened_by_name: sonames that are loaded by dlopen(3), so that no DT_NEEDED shows their use.
    """
    found = []
    for file in files:
        name = PurePosixPath(file.path).name
        if file.path.startswith(("usr/bin/", "usr/sbin/")) and name in _SHELLS:
            found.append(f"/{file.path} is a shell or a way to one")
        if file.path.startswith(("usr/bin/", "usr/sbin/")) and name in _PACKAGE_MANAGERS:
            found.append(f"/{file.path} is a package manager")
        if file.mode & 0o6000:
            found.append(f"/{file.path} is setuid or setgid")
        if matches(file.path, _DOCUMENTATION):
            found.append(f"/{file.path} is documentation")
        if file.path.endswith(".py"):
            found.append(f"/{file.path} is Python source; only bytecode belongs in the root")
    return [*found, *_library_violations(elves, opened_by_name), *_dangling(files)]


def _library_violations(elves: Mapping[str, Elf], opened_by_name: frozenset[str]) -> list[str]:
    present = {PurePosixPath(path).name for path in elves}
    needed = {soname for elf in elves.values() for soname in elf.needed}
    needed |= {PurePosixPath(elf.interpreter).name for elf in elves.values()}
    missing = [
        f"/{path} needs {soname}, which is not in the root"
        for path, elf in elves.items()
        for soname in elf.needed
        if soname not in present
    ]
    unused = [
        f"/{path} is a library that nothing needs"
        for path in elves
        if str(PurePosixPath(path).parent) == _LIBRARIES and PurePosixPath(path).name not in needed | opened_by_name
    ]
    return missing + unused


def _dangling(files: Sequence[File]) -> list[str]:
    """Links that lead nowhere, those into what exists only on a running node aside."""
    known = {file.path for file in files} | {
        str(parent) for file in files for parent in PurePosixPath(file.path).parents
    }
    found = []
    for file in files:
        if not file.target:
            continue
        joined = PurePosixPath("/", *PurePosixPath(file.path).parts[:-1]) / file.target
        parts: list[str] = []
        for piece in joined.parts[1:]:
            parts = parts[:-1] if piece == ".." else [*parts, piece]
        if parts and parts[0] not in ("run", "proc", "dev", "var") and "/".join(parts) not in known:
            found.append(f"/{file.path} points to {file.target}, which is not in the root")
    return found
