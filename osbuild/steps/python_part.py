"""The node's Python: the standard library and the locked wheels, compiled to bytecode without sources.

Bytecode is compiled by the very Python 3.13 that will run it, in one process and in sorted order (marshal's output depends on what
was interned before). ``unchecked-hash`` matters although no source is shipped: image builds set every time stamp to a constant, and
a ``.pyc`` validated by time would be stale on each import. Docstrings are left out: nobody reads them there.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osbuild.graph import Context, Step
from osbuild.lock.blobs import blob
from osbuild.lock.model import DebianLock, WheelLock
from osbuild.parts import Part, files_below, select

STDLIB = "usr/lib/python3.13"
PACKAGES = "usr/lib/python3/dist-packages"
_STDLIB_SOURCES = ("libpython3.13-minimal", "libpython3.13-stdlib")
_COMPILE = [
    "python3.13", "-B", "-m", "compileall", "-b", "-q", "-f", "-j1", "-o2", "--invalidation-mode", "unchecked-hash",
    "-s", "/out/tree", "-p", "/",
]  # fmt: skip


def python_step(tools: Step, pool: Step, debian: DebianLock, wheels: WheelLock, python: Mapping[str, Any]) -> Step:
    """*python* is the profile's table of that name (what to leave out)."""
    params = {
        "wheels": {name: [wheel.version, wheel.sha256] for name, wheel in wheels.wheels.items()},
        "debian": {name: debian.packages[name].version for name in _STDLIB_SOURCES},
        "python": dict(python),
    }
    return Step("python", build_python, inputs={"tools": tools, "pool": pool}, params=params)


def compile_tree(ctx: Context, tree: Path, directories: list[str]) -> None:
    """Replace every source below *directories* of ``/out/tree`` by its bytecode, in the legacy place beside it.

    :raises CommandError: when a file does not compile.
    """
    ctx.run([*_COMPILE, *(f"/out/tree/{name}" for name in directories)])
    for name in directories:
        for source in sorted((tree / name).rglob("*.py")):
            source.unlink()


def build_python(ctx: Context) -> None:
    """Run function of :func:`python_step`."""
    part = Part.new(ctx.out)
    versions, exclude = ctx.params["debian"], ctx.params["python"]
    for package in _STDLIB_SOURCES:
        source = ctx.input("pool") / package / STDLIB
        for name in select(files_below(source), ["**"], exclude["stdlib_exclude"]):
            # Links in Debian's standard library lead to /etc and to directories left out.
            if not (source / name).is_symlink():
                part.add(source / name, f"{STDLIB}/{name}", f"{package} {versions[package]}")
    for name, (version, sha256) in ctx.params["wheels"].items():
        _unpack_wheel(ctx, part, f"{name} {version} (wheel)", blob(ctx.store.cache, sha256))
    libraries = [
        f"/out/tree/{PACKAGES}/{name}"
        for name in files_below(part.tree / PACKAGES)
        if name.endswith(".so") or ".so." in name
    ]
    # Debian strips what it ships; wheels often come with symbol tables.
    ctx.run(["strip", "--strip-unneeded", *libraries])
    compile_tree(ctx, part.tree, [STDLIB, PACKAGES])
    part.origins = {(name + "c" if name.endswith(".py") else name): origin for name, origin in part.origins.items()}
    part.save()


def _unpack_wheel(ctx: Context, part: Part, origin: str, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for name in select(sorted(names), ["**"], ctx.params["python"]["wheels_exclude"]):
            part.write(f"{PACKAGES}/{name}", archive.read(name), origin)
