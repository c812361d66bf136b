"""Files picked from Debian packages, and the libraries that the picked ELF files need, found by following DT_NEEDED."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from basalt.errors import UsageError
from osbuild.elf import read_elf
from osbuild.graph import Context, Step
from osbuild.lock.model import DebianLock
from osbuild.parts import Part, files_below, select

LIBRARIES = "usr/lib/x86_64-linux-gnu"
# Where Go and OpenSSL look. Debian's package leaves it to its maintainer script, which no build here runs.
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


def debian_step(
    pool: Step,
    python: Step,
    debian: DebianLock,
    picks: Mapping[str, Sequence[str]],
    links: Mapping[str, str],
    authorities: Mapping[str, Sequence[str]],
) -> Step:
    """What the root has of Debian.

    :param python: its ELF files count as needing libraries too.
    :param picks: the profile's globs by package.
    :param links: targets of symbolic links, by path.
    :param authorities: globs by package of certificates that are joined into one file.
    """
    params = {
        "picks": {name: list(globs) for name, globs in picks.items()},
        "links": dict(links),
        "authorities": {name: list(globs) for name, globs in authorities.items()},
        "versions": {name: package.version for name, package in debian.members("image").items()},
    }
    return Step("debian", build_debian, inputs={"pool": pool, "python": python}, params=params)


def build_debian(ctx: Context) -> None:
    """Run function of :func:`debian_step`."""
    part = Part.new(ctx.out)
    # Resolved, because where links lead is compared with it, and a cache directory may lie behind a link.
    pool, versions = ctx.input("pool").resolve(), ctx.params["versions"]
    for package, name in _picked(pool, versions, ctx.params["picks"], "packages"):
        _add(part, pool / package, name, f"{package} {versions[package]}")
    for name, target in ctx.params["links"].items():
        part.link(name, target, "profile")
    certificates = list(_picked(pool, versions, ctx.params["authorities"], "authorities"))
    if certificates:
        joined = b"".join((pool / package / name).read_bytes().strip() + b"\n" for package, name in certificates)
        packages = dict.fromkeys(package for package, _ in certificates)
        part.write(AUTHORITIES, joined, ", ".join(f"{package} {versions[package]}" for package in packages))
    _add_libraries(part, pool, versions, Part.load(ctx.input("python")).tree)
    part.save()


def _picked(
    pool: Path, versions: Mapping[str, str], picks: Mapping[str, Sequence[str]], table: str
) -> Iterator[tuple[str, str]]:
    """Package and name of every file that *picks*, the profile's *table*, asks for.

    :raises UsageError: it names a package that is not locked, or a file that the package does not have.
    """
    for package, globs in picks.items():
        if package not in versions:
            raise UsageError(
                f"the profile picks files of {package}, which is not locked",
                remedy="Add it to [debian.image] in locks/sets.toml and run 'osbuild lock --update'",
            )
        for glob in globs:
            found = select(files_below(pool / package), [glob])
            if not found:
                raise UsageError(
                    f"package {package} {versions[package]} has no file '{glob}'",
                    remedy=f"Correct [{table}] in the profile",
                )
            yield from ((package, name) for name in found)


def _add(part: Part, base: Path, name: str, origin: str) -> None:
    """Add *name* and, for a link, what it points to in the same package."""
    if name in part.origins:
        return
    part.add(base / name, name, origin)
    path = base / name
    if path.is_symlink():
        target = (path.parent / path.readlink()).resolve()
        if target.is_relative_to(base) and target.exists():
            _add(part, base, str(target.relative_to(base)), origin)


def _add_libraries(part: Part, pool: Path, versions: Mapping[str, str], also: Path) -> None:
    """Add what ELF files of *part* and below *also* need, until nothing is missing.

    A library is stored under its soname alone: the versioned file name and the link to it say nothing a loader asks for.
    """
    # The dynamic loader and libc6 come from these directories of the packages, on merged /usr.
    providers = {
        path.name: (path, package.name)
        for package in sorted(pool.iterdir())
        for directory in (LIBRARIES, "usr/lib64")
        for path in sorted((package / directory).glob("*.so*"))
    }
    todo = [tree / name for tree in (part.tree, also) for name in files_below(tree)]
    have = {Path(name).name for name in part.origins}
    while todo:
        elf = read_elf(todo.pop())
        if elf is None:
            continue
        for soname in (*elf.needed, *([Path(elf.interpreter).name] if elf.interpreter else [])):
            if soname in have:
                continue
            if soname not in providers:
                raise UsageError(
                    f"no locked package has the library {soname}",
                    remedy="Add its package to [debian.image] in locks/sets.toml",
                )
            path, package = providers[soname]
            # The loader's path is fixed in every executable: /lib64/ld-linux-x86-64.so.2, and /lib64 is usr/lib64.
            directory = "usr/lib64" if soname.startswith("ld-linux") else LIBRARIES
            part.add(path.resolve(), f"{directory}/{soname}", f"{package} {versions[package]}")
            have.add(soname)
            todo.append(part.tree / directory / soname)
