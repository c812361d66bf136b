"""Steps that unpack locked Debian packages: trees to run tools in, and the pool that the image's files are picked from.

No maintainer script runs. What such scripts would have made and a tool needs is made here, by name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from basalt.errors import BasaltError
from osbuild.graph import Context, Step
from osbuild.lock import apt, debian
from osbuild.lock.model import DebianLock, Package

# Packages' alternatives (update-alternatives would make these links): link -> candidates, the first that exists wins.
_ALTERNATIVES = {
    "usr/bin/awk": ("gawk", "mawk"),
    "usr/bin/sh": ("bash", "dash"),
}


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


def _extract(blob: Path, name: str, sha256: str, target: Path) -> None:
    if not debian.verified(blob, sha256):
        blob.unlink(missing_ok=True)
        raise BasaltError(
            f"the download of {name} is damaged", why=f"its hash is not {sha256}", remedy="Run the build again"
        )
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(blob), str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BasaltError(f"cannot unpack {name}", why=done.stderr.strip())


def unpack_tree(ctx: Context) -> None:
    """Run function of :func:`tree_step`."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (ctx.out / "usr" / name).mkdir(parents=True, exist_ok=True)
        (ctx.out / name).symlink_to(f"usr/{name}")
    (ctx.out / "etc").mkdir()
    for name, sha256 in ctx.params["packages"].items():
        _extract(debian.blob(ctx.store.cache, sha256), name, sha256, ctx.out)
    for link, candidates in _ALTERNATIVES.items():
        for candidate in candidates:
            path = ctx.out / link
            if (path.parent / candidate).exists() and not path.is_symlink() and not path.exists():
                path.symlink_to(candidate)
    # Tools ask for the user's name; there is just this one.
    (ctx.out / "etc/passwd").write_text("build:x:1000:1000::/work:/usr/bin/sh\n")
    (ctx.out / "etc/group").write_text("build:x:1000:\n")


def unpack_pool(ctx: Context) -> None:
    """Run function of :func:`pool_step`."""
    for name, sha256 in ctx.params["packages"].items():
        target = ctx.out / name
        target.mkdir()
        _extract(debian.blob(ctx.store.cache, sha256), name, sha256, target)
