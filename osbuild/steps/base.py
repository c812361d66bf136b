"""The layer of the root that seldom changes: packages, Python and modules as an erofs file system.

This module imports as little as it can: what it imports is part of the key of a step that takes half a minute.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from osbuild.graph import Context, Step
from osbuild.parts import Part
from osbuild.tree import DIRECTORIES, File, Listing, collect, write_tar


def base_step(tools: Step, parts: Mapping[str, Step], root: Mapping[str, Any], epoch: int) -> Step:
    """An erofs of *parts*, to which Basalt's own files are appended (:mod:`osbuild.steps.root`).

    :param root: the profile's table of that name.
    :param epoch: time stamp of every file, in seconds.
    """
    inputs = {"tools": tools, **{f"part-{name}": step for name, step in parts.items()}}
    return Step("base", build_base, inputs=inputs, params={"root": dict(root), "epoch": epoch})


def parts_of(ctx: Context) -> list[Part]:
    """The parts among the inputs of a step."""
    return [Part.load(ctx.input(name)) for name in sorted(ctx.step.inputs) if name.startswith("part-")]


def build_base(ctx: Context) -> None:
    """Run function of :func:`base_step`. Output: base.erofs."""
    entries = collect(parts_of(ctx))
    write_tar(entries, DIRECTORIES, ctx.work / "layer.tar", ctx.params["epoch"])
    ctx.note("mkfs.erofs")
    make_erofs(ctx, "--clean=data", "base.erofs", [entry for entry, _ in entries])


def make_erofs(ctx: Context, mode: str, name: str, files: Sequence[File]) -> None:
    """Write ``/work/layer.tar`` into ``/out/<name>``, whose files are then *files*.

    :param mode: ``--clean=data`` for a new image, ``--incremental=data`` to append to one.
    """
    epoch, settings = ctx.params["epoch"], ctx.params["root"]
    # The UUID has no meaning to anybody; derived from the list of files it differs where contents differ.
    digest = hashlib.sha256(msgspec.json.encode(Listing(list(files)))).digest()
    (ctx.work / "hints").write_text(compress_hints(settings["cold"], settings["cold_cluster_bytes"]))
    command = ["mkfs.erofs", "--quiet", mode, f"-z{settings['compression']}:{settings['cold_compression']}"]
    command += [f"-C{settings['cluster_bytes']}", "--compress-hints=/work/hints", "-Eztailpacking"]
    command += [f"-T{epoch}", "-U", str(uuid.UUID(bytes=digest[:16])), "--tar=f", f"/out/{name}", "/work/layer.tar"]
    ctx.run(command, env={"SOURCE_DATE_EPOCH": str(epoch)})


def compress_hints(cold: Sequence[str], cluster_bytes: int) -> str:
    """A ``--compress-hints`` file that gives the second algorithm to the files *cold*.

    A line is cluster size, index of the algorithm, and a POSIX regular expression, in which "." and "+" must be bracketed.
    """
    patterns = (re.sub(r"([.+])", r"[\1]", name).replace("*", "[^/]*") for name in cold)
    return "".join(f"{cluster_bytes} 1 {pattern}$\n" for pattern in patterns)
