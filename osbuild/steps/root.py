"""From parts to a verified root: erofs, dm-verity hash tree, root hash.

The root is made in two layers in one file system. ``base`` holds what seldom changes (packages, Python, modules) and takes as long to
compress as it takes, once. ``root`` appends Basalt's own files to a copy of it (mkfs.erofs --incremental): a changed line of machined
costs a tenth of a second here, and every block of the base keeps its place, so that an update sends next to nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from basalt.errors import BasaltError
from osbuild import policy
from osbuild.elf import read_elf
from osbuild.graph import Context, Step
from osbuild.parts import Part
from osbuild.steps.base import base_step, make_erofs, parts_of
from osbuild.tree import DIRECTORIES, Listing, collect, write_tar

BLOCK_BYTES = 4096
# glibc opens it when a thread is cancelled or exits.
_OPENED_BY_NAME = frozenset({"libgcc_s.so.1"})
# A salt keeps two images from sharing hashes of equal blocks, which is no threat here; a fixed one keeps the build reproducible
# and the hash of an unchanged block the same from version to version, which is what updates reuse.
SALT = hashlib.sha256(b"basalt root").hexdigest()


def root_step(tools: Step, base_parts: Mapping[str, Step], own: Step, root: Mapping[str, Any], epoch: int) -> Step:
    """The step that ends in a root with its hash tree.

    :param base_parts: parts that seldom change, by name.
    :param own: the part that is Basalt's own.
    :param root: the profile's table of that name.
    :param epoch: time stamp of every file, in seconds.
    """
    inputs = {"tools": tools, "base": base_step(tools, base_parts, root, epoch), "own": own}
    inputs |= {f"part-{name}": step for name, step in base_parts.items()}
    return Step("root", build_root, inputs=inputs, params={"root": dict(root), "epoch": epoch})


def build_root(ctx: Context) -> None:
    """Run function of :func:`root_step`. Output: root.erofs, root.verity, root.json, files.json."""
    own = Part.load(ctx.input("own"))
    entries = collect([*parts_of(ctx), own])
    files = [entry for entry, _ in entries]
    elves = {entry.path: elf for entry, path in entries if entry.sha256 and (elf := read_elf(path))}
    broken = policy.violations(files, elves, opened_by_name=_OPENED_BY_NAME)
    if broken:
        raise BasaltError(
            "the root must not hold these files", why="\n".join(broken[:30]), remedy="Correct the profile's lists"
        )
    (ctx.out / "files.json").write_bytes(msgspec.json.encode(Listing(files)))
    shutil.copyfile(ctx.input("base") / "base.erofs", ctx.out / "root.erofs")
    write_tar(collect([own]), DIRECTORIES, ctx.work / "layer.tar", ctx.params["epoch"])
    ctx.note("mkfs.erofs")
    make_erofs(ctx, "--incremental=data", "root.erofs", files)
    ctx.note("veritysetup")
    _make_verity(ctx)


def _make_verity(ctx: Context) -> None:
    image = ctx.out / "root.erofs"
    size = image.stat().st_size
    padded = -(-size // BLOCK_BYTES) * BLOCK_BYTES
    with image.open("r+b") as stream:
        stream.truncate(padded)
    printed = ctx.run(
        ["veritysetup", "format", "/out/root.erofs", "/out/root.verity", f"--salt={SALT}", f"--uuid={uuid.UUID(SALT[:32])}",
         f"--data-block-size={BLOCK_BYTES}", f"--hash-block-size={BLOCK_BYTES}", "--hash=sha256"]
    )  # fmt: skip
    match = re.search(r"^Root hash:\s*([0-9a-f]{64})$", printed, re.MULTILINE)
    if not match:
        raise BasaltError("veritysetup printed no root hash", why=printed[-500:])
    facts = {
        "root_hash": match[1],
        "salt": SALT,
        "data_blocks": padded // BLOCK_BYTES,
        "root_bytes": padded,
        "verity_bytes": (ctx.out / "root.verity").stat().st_size,
    }
    (ctx.out / "root.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
