"""The unified kernel image: kernel, command line with the root hash in it, and os-release in one EFI program."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from osbuild.graph import Context, Step

STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_SECTOR_BYTES = 512
_BLOCK_BYTES = 4096


def partition_uuids(root_hash: str) -> tuple[uuid.UUID, uuid.UUID]:
    """PARTUUIDs of root and hash tree: first and last 128 bits of the root hash (Discoverable Partitions Specification)."""
    return uuid.UUID(root_hash[:32]), uuid.UUID(root_hash[-32:])


def kernel_command_line(root: Mapping[str, Any], words: Sequence[str]) -> str:
    """The command line that lets the kernel set up verity by itself (Documentation/admin-guide/device-mapper/dm-init.rst).

    *root* is the content of ``root.json``. The table's line is the one of Documentation/admin-guide/device-mapper/verity.rst; the
    hash tree has no superblock to skip but block 0, hence hash start 1.
    """
    data, tree = partition_uuids(root["root_hash"])
    sectors = root["data_blocks"] * _BLOCK_BYTES // _SECTOR_BYTES
    verity = (
        f"1 PARTUUID={data} PARTUUID={tree} {_BLOCK_BYTES} {_BLOCK_BYTES} {root['data_blocks']} 1 sha256"
        f" {root['root_hash']} {root['salt']} 2 restart_on_corruption ignore_zero_blocks"
    )
    return " ".join(
        [
            "root=/dev/dm-0 rootfstype=erofs ro rootwait init=/init panic=10",
            f'dm-mod.create="root,,0,ro,0 {sectors} verity {verity}"',
            # Without it the kernel asks for the partitions before the disk has been found, once, and gives up.
            f"dm-mod.waitfor=PARTUUID={data},PARTUUID={tree}",
            *words,
        ]
    )


def uki_step(tools: Step, kernel: Step, root: Step, identity: Mapping[str, Any], cmdline: Sequence[str]) -> Step:
    """*cmdline* are the profile's own words."""
    return Step(
        "uki",
        build_uki,
        inputs={"tools": tools, "kernel": kernel, "root": root},
        params={"identity": dict(identity), "cmdline": list(cmdline)},
    )


def build_uki(ctx: Context) -> None:
    """Run function of :func:`uki_step`. Output: basalt.efi, cmdline."""
    identity = ctx.params["identity"]
    root = json.loads((ctx.input("root") / "root.json").read_text())
    release = json.loads((ctx.input("kernel") / "kernel.json").read_text())["release"]
    cmdline = kernel_command_line(root, ctx.params["cmdline"])
    (ctx.out / "cmdline").write_text(cmdline + "\n")
    # systemd-boot sorts by VERSION_ID and shows PRETTY_NAME (Boot Loader Specification, type #2).
    (ctx.work / "os-release").write_text(
        f'ID=basalt\nNAME=Basalt\nPRETTY_NAME="Basalt {identity["version"]} ({identity["profile"]})"\nVERSION_ID={identity["version"]}\n'
    )
    ctx.run(
        ["ukify", "build", "--linux=/in/kernel/bzImage", "--cmdline=@/out/cmdline", "--os-release=@/work/os-release",
         f"--uname={release}", f"--stub={STUB}", "--output=/out/basalt.efi"],
        env={"SOURCE_DATE_EPOCH": str(identity["build_epoch"])},
    )  # fmt: skip
