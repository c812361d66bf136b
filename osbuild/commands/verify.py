"""``osbuild verify``: build every step twice from nothing and compare the bytes."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from basalt import output
from basalt.commandline import Arguments
from basalt.errors import BasaltError
from osbuild.commands.image import fetch_missing, graph_of
from osbuild.graph import Step, build, topological
from osbuild.progress import Progress, make_progress
from osbuild.store import Store

# Unpacked archives: what is in them is fixed by hash, and unpacking is not ours to prove.
_TREES = ("unpack_tree", "unpack_pool")
_DIFFOSCOPE_TIMEOUT_S = 300


def verify(arguments: Arguments) -> int:
    """Build the image's steps in two fresh stores.

    :raises BasaltError: naming the first file that differs, and how when diffoscope is installed.
    """
    store, image = Store(), graph_of(arguments)
    targets = image.targets(("raw", "qcow2"))
    steps = topological(targets)
    # Trees, and the kernel unless --all, are shared: they are read by both builds and written by none.
    shared = [step for step in steps if step.run.__name__ in _TREES or (not arguments.all and _is_kernel(step))]
    progress = make_progress(arguments.progress)
    try:
        fetch_missing(store, image.debian, targets, progress, arguments.mirror, wheels=image.wheels)
        build(store, shared, progress, jobs=arguments.jobs)
        # Where workspaces lie: should this process be killed, the collector sweeps it away.
        with store.using(), tempfile.TemporaryDirectory(prefix="verify.", dir=store.root / "work") as scratch:
            built = [
                _rebuild(store, Path(scratch) / name, shared, targets, progress, arguments.jobs)
                for name in ("first", "second")
            ]
            compared = [step for step in steps if step not in shared]
            for step in compared:
                difference = first_difference(built[0].path(step.key), built[1].path(step.key))
                if difference:
                    raise _differs(step, difference, built)
    finally:
        progress.close()
    names = [step.name for step in compared]
    output.answer(
        arguments.form,
        {"identical": True, "steps": names},
        f"identical: {len(names)} steps built twice ({', '.join(names)})",
    )
    return 0


def _is_kernel(step: Step) -> bool:
    return step.name == "kernel" or step.name.startswith("kernel-")


def _rebuild(
    store: Store, cache: Path, shared: list[Step], targets: list[Step], progress: Progress, jobs: int
) -> Store:
    cache.mkdir()
    (cache / "downloads").symlink_to(store.cache / "downloads")
    fresh = Store(cache)
    for step in shared:
        # A bind mount of a link follows it, so the sandbox sees the tree all the same.
        fresh.path(step.key).symlink_to(store.path(step.key))
    build(fresh, targets, progress, jobs=jobs)
    return fresh


def first_difference(one: Path, other: Path) -> str | None:
    """The first name below two directories that is not the same in both, in sorted order; None when all is equal."""
    names = sorted(set(_entries(one)) | set(_entries(other)))
    return next((name for name in names if not _same(one / name, other / name)), None)


def _entries(directory: Path) -> Iterator[str]:
    for root, directories, files in os.walk(directory):
        for name in directories + files:
            yield str((Path(root) / name).relative_to(directory))


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if not one.exists() or not other.exists() or one.is_dir() != other.is_dir():
        return False
    modes = one.stat().st_mode == other.stat().st_mode
    return modes and (one.is_dir() or filecmp.cmp(one, other, shallow=False))


def _differs(step: Step, name: str, built: list[Store]) -> BasaltError:
    one, other = (store.path(step.key) / name for store in built)
    why = f"{name} of step {step.name} is not the same in two builds"
    if shutil.which("diffoscope") and one.exists() and other.exists():
        command = ["diffoscope", "--max-text-report-size", "4000", str(one), str(other)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DIFFOSCOPE_TIMEOUT_S)
        why += "\n" + shown.stdout
        remedy = "Look for time stamps, random identifiers, or the order of directories"
    else:
        remedy = "Install diffoscope to see in what they differ"
    return BasaltError("the build is not reproducible", why=why, remedy=remedy)
