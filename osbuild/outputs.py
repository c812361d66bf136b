"""Handing an image out of the store: copies in a directory of the user's, replaced atomically and only when they differ."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from basalt.errors import BasaltError
from basalt.files import write_atomic
from osbuild.graph import Step
from osbuild.pipeline import Image
from osbuild.steps.disk import copy_sparse
from osbuild.store import Store

_RECORD = ".osbuild.json"


@dataclass(frozen=True)
class Artifact:
    """One file handed out: from which step, which file of its output, and what it is called outside."""

    kind: str
    step: Step
    file: str
    name: str


def artifacts(image: Image, formats: tuple[str, ...]) -> list[Artifact]:
    """What ``osbuild image`` writes for *formats*."""
    stem = f"basalt-{image.name}-{image.identity['version']}"
    rows = [
        ("raw", image.disk, "disk.raw", f"{stem}.raw"),
        ("qcow2", image.qcow2, "disk.qcow2", f"{stem}.qcow2"),
        ("uki", image.uki, "basalt.efi", f"{stem}.efi"),
        ("kernel", image.kernel, "vmlinux", f"{stem}.vmlinux"),
        ("config", image.kernel, "config", f"{stem}.config"),
        ("cmdline", image.uki, "cmdline", f"{stem}.cmdline"),
        ("root", image.root, "root.erofs", f"{stem}.root"),
        ("verity", image.root, "root.verity", f"{stem}.verity"),
        ("manifest", image.manifest, "manifest.json", f"{stem}.manifest.json"),
        ("files", image.root, "files.json", f"{stem}.files.json"),
        ("sbom", image.manifest, "sbom.spdx.json", f"{stem}.spdx.json"),
    ]
    return [Artifact(*row) for row in rows if row[0] in formats or row[0] not in ("raw", "qcow2")]


def hand_out(store: Store, wanted: list[Artifact], directory: Path) -> dict[str, Path]:
    """Bring *wanted* to *directory*; files that are already what they should be are left alone.

    :returns: the absolute path of each kind.
    :raises BasaltError: when the directory cannot be written; existing files are then as they were.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _read_record(directory)
        record = dict(before)
        for artifact in wanted:
            target = directory / artifact.name
            mark = f"{artifact.step.key}/{artifact.file}"
            if before.get(artifact.name) != [mark, *_stamp(target)]:
                _replace(store.path(artifact.step.key) / artifact.file, target)
                record[artifact.name] = [mark, *_stamp(target)]
        if record != before:
            write_atomic(directory / _RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise BasaltError(
            f"cannot write to {directory}",
            why=error.strerror or str(error),
            remedy="Free space or give another --output; what was there before is untouched",
        ) from error
    return {artifact.kind: (directory / artifact.name).absolute() for artifact in wanted}


def _read_record(directory: Path) -> Mapping[str, list[object]]:
    with contextlib.suppress(OSError, ValueError):
        loaded: dict[str, list[object]] = json.loads((directory / _RECORD).read_text())
        return loaded
    return {}


def _stamp(path: Path) -> list[object]:
    """Size and time of *path*; a file that somebody changed or deleted has another one than the record."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return [status.st_size, status.st_mtime_ns]
    return [None, None]


def _replace(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            stream.truncate(source.stat().st_size)
            copy_sparse(source, stream.fileno(), 0)
            os.fsync(stream.fileno())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
