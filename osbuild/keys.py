"""The code and the files of a build step as digests, for its key.

Code is every module of this project that the step's module imports, however deep, as parsed source, so that a comment changes
nothing. Left out is the framework that runs steps, which is counted by :data:`FRAMEWORK_EPOCH`. Imports are read from the source,
not from a running interpreter, so that a key says the same before and after anything was loaded.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from basalt.errors import BasaltError
from osbuild import paths

# Modules that run steps but do not shape what they make. Raise the epoch when a change in one of them does after all
# (the sandbox's environment, say), and every step is built anew.
FRAMEWORK = frozenset(
    {
        "osbuild.graph",
        "osbuild.keys",
        "osbuild.store",
        "osbuild.sandbox",
        "osbuild.progress",
        "osbuild.paths",
        "basalt.errors",
        "basalt.files",
    }
)
FRAMEWORK_EPOCH = 1
_PACKAGES = ("osbuild", "machined", "basalt")


@functools.cache
def _module_source(module: str) -> Path | None:
    base = paths.PROJECT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _module_tree(module: str) -> ast.Module:
    source = _module_source(module)
    assert source is not None
    return ast.parse(source.read_bytes())


def _imports(module: str) -> Iterator[str]:
    """Modules of this project that *module* names in an import, at any depth of its code."""
    for node in ast.walk(_module_tree(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] in _PACKAGES and _module_source(name))


@functools.cache
def code_modules(module: str) -> tuple[str, ...]:
    """*module* and all project modules it imports, however deep, less the framework; sorted."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen and name not in FRAMEWORK:
            seen.add(name)
            todo.extend(_imports(name))
    return tuple(sorted(seen))


@functools.cache
def code_digest(module: str) -> str:
    """SHA-256 over the parsed source of :func:`code_modules`: comments and layout do not count."""
    digest = hashlib.sha256()
    for name in code_modules(module):
        digest.update(f"{name}\0{ast.dump(_module_tree(name))}\0".encode())
    return digest.hexdigest()


def file_digests(path: Path) -> Iterator[tuple[str, str]]:
    """(name; SHA-256 and mode) of *path*, or of every file below it; bytecode caches are left out.

    Names are relative to the checkout, or outside of it to the directory of *path*.

    A link below *path* counts by where it points, whether that exists or not.

    :raises BasaltError: when nothing is there.
    """
    below = (p for p in path.rglob("*") if (p.is_symlink() or p.is_file()) and "__pycache__" not in p.parts)
    files = [path] if path.is_file() else sorted(below)
    if not files:
        raise BasaltError(f"an input of the build is missing: {path}", remedy="Restore it from version control")
    for file in files:
        name = file.relative_to(paths.PROJECT if file.is_relative_to(paths.PROJECT) else path.parent)
        if file.is_symlink() and file != path:
            yield str(name), f"-> {file.readlink()}"
            continue
        executable = "x" if file.stat().st_mode & 0o100 else "-"
        yield str(name), hashlib.sha256(file.read_bytes()).hexdigest() + executable
