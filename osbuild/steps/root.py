"""From parts to a verified root: canonical tar, erofs, dm-verity hash tree, root hash."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from basalt.errors import BasaltError
from osbuild import policy
from osbuild.elf import read_elf
from osbuild.graph import Context, Step
from osbuild.parts import Part
from osbuild.steps.os_part import DIRECTORIES
from osbuild.tree import Listing, collect, write_tar

BLOCK_BYTES = 4096
# glibc opens it when a thread is cancelled or exits.
_OPENED_BY_NAME = frozenset({"libgcc_s.so.1"})
# A salt keeps two images from sharing hashes of equal blocks, which is no threat here; a fixed one keeps the build reproducible
# and the hash of an unchanged block the same from version to version, which is what updates reuse.
SALT = hashlib.sha256(b"basalt root").hexdigest()


def root_step(tools: Step, parts: Mapping[str, Step], root: Mapping[str, Any], epoch: int) -> Step:
    """*root* is the profile's table of that name; *epoch* the time stamp of every file, in seconds."""
    inputs = {"tools": tools, **{f"part-{name}": step for name, step in parts.items()}}
    return Step("root", build_root, inputs=inputs, params={"root": dict(root), "epoch": epoch})


def build_root(ctx: Context) -> None:
    """Run function of :func:`root_step`. Output: root.erofs, root.verity, root.json, files.json."""
    parts = [Part.load(ctx.input(name)) for name in sorted(ctx.step.inputs) if name.startswith("part-")]
    entries = collect(parts)
    files = [entry for entry, _ in entries]
    elves = {entry.path: elf for entry, path in entries if entry.sha256 and (elf := read_elf(path))}
    broken = policy.violations(files, elves, opened_by_name=_OPENED_BY_NAME)
    if broken:
        raise BasaltError(
            "the root must not hold these files", why="\n".join(broken[:30]), remedy="Correct the profile's lists"
        )
    (ctx.out / "files.json").write_bytes(msgspec.json.encode(Listing(files)))
    ctx.note("writing tar")
    write_tar(entries, DIRECTORIES, ctx.work / "root.tar", ctx.params["epoch"])
    ctx.note("mkfs.erofs")
    _make_erofs(ctx)
    ctx.note("veritysetup")
    _make_verity(ctx)


def _make_erofs(ctx: Context) -> None:
    epoch, settings = ctx.params["epoch"], ctx.params["root"]
    # The UUID has no meaning to anybody; derived from the content's list it differs where contents differ.
    digest = hashlib.sha256((ctx.out / "files.json").read_bytes()).digest()
    identifier = str(uuid.UUID(bytes=digest[:16]))
    options = [f"-z{settings['compression']}", f"-C{settings['cluster_bytes']}", f"-T{epoch}", "-U", identifier]
    options += ["-Efragments,ztailpacking"] if settings["fragments"] else []
    command = ["mkfs.erofs", "--quiet", *options, "--tar=f", "/out/root.erofs", "/work/root.tar"]
    ctx.run(command, env={"SOURCE_DATE_EPOCH": str(epoch)})


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
