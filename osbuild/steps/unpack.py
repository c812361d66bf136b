"""Unpacking locked Debian packages: a tree to run tools in, or a pool to pick files from.

No maintainer script runs. What such scripts would have made and a tool needs is made here, by name. This module imports as little
as it can: it is part of the key of every tools tree, and so of the kernel.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from basalt.errors import BasaltError
from osbuild.graph import Context
from osbuild.lock.blobs import blob, verified

# Packages' alternatives (update-alternatives would make these links): link -> candidates, the first that exists wins.
_ALTERNATIVES = {
    "usr/bin/awk": ("gawk", "mawk"),
    "usr/bin/sh": ("bash", "dash"),
}


def _extract(package: Path, name: str, sha256: str, target: Path) -> None:
    if not verified(package, sha256):
        package.unlink(missing_ok=True)
        raise BasaltError(
            f"the download of {name} is damaged", why=f"its hash is not {sha256}", remedy="Run the build again"
        )
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(package), str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BasaltError(f"cannot unpack {name}", why=done.stderr.strip())


def unpack_tree(ctx: Context) -> None:
    """Run function of :func:`osbuild.steps.trees.tree_step`."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (ctx.out / "usr" / name).mkdir(parents=True, exist_ok=True)
        (ctx.out / name).symlink_to(f"usr/{name}")
    (ctx.out / "etc").mkdir()
    for name, sha256 in ctx.params["packages"].items():
        _extract(blob(ctx.store.cache, sha256), name, sha256, ctx.out)
    for link, candidates in _ALTERNATIVES.items():
        for candidate in candidates:
            path = ctx.out / link
            if (path.parent / candidate).exists() and not path.is_symlink() and not path.exists():
                path.symlink_to(candidate)
    # Tools ask for the user's name; there is just this one.
    (ctx.out / "etc/passwd").write_text("build:x:1000:1000::/work:/usr/bin/sh\n")
    (ctx.out / "etc/group").write_text("build:x:1000:\n")


def unpack_pool(ctx: Context) -> None:
    """Run function of :func:`osbuild.steps.trees.pool_step`."""
    for name, sha256 in ctx.params["packages"].items():
        target = ctx.out / name
        target.mkdir()
        _extract(blob(ctx.store.cache, sha256), name, sha256, target)
