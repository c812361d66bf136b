"""The kernel's source inside a step: where it lies, how it is unpacked, and the environment that makes its build repeatable."""

from __future__ import annotations

from collections.abc import Sequence

from basalt.errors import BasaltError
from osbuild.graph import Context

TREE = "/work/linux"

# Linux puts these into the image (Documentation/kbuild/reproducible-builds.rst). The date is a constant, not the image's: it takes
# part in nothing, and a moving one would change every kernel and miss every cache.
ENVIRONMENT = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 2026",
    "KBUILD_BUILD_USER": "basalt",
    "KBUILD_BUILD_HOST": "basalt",
    "KBUILD_BUILD_VERSION": "1",
}


def unpack(ctx: Context, patterns: Sequence[str] = ()) -> None:
    """Unpack the archive of input ``source`` to :data:`TREE`; only members that match *patterns*, when there are any.

    The path is the same in every build, and the kernel is built inside the tree, so that no path of this host reaches the output.

    :raises BasaltError: when the input does not hold exactly one archive.
    """
    source = ctx.input("source")
    archives = sorted(source.glob("*/usr/src/linux-source-*.tar.xz"))
    if len(archives) != 1:
        raise BasaltError(
            "the kernel's source is not where it should be",
            why=f"{len(archives)} archives in {source}",
            remedy="Name exactly one linux-source package in [debian.kernel-source] of locks/sets.toml, then 'osbuild lock --update'",
        )
    (ctx.work / "linux").mkdir()
    archive = f"/in/source/{archives[0].relative_to(source)}"
    wanted = ["--wildcards", *patterns] if patterns else []
    ctx.run(["tar", "--extract", "--xz", f"--file={archive}", "--strip-components=1", f"--directory={TREE}", *wanted])
