"""``osbuild inspect``: what is in an image."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from basalt import output
from basalt.commandline import Arguments
from basalt.errors import UsageError
from osbuild.tree import Listing

_ARTIFACT = re.compile(
    r"(basalt-.+?)\.(raw|qcow2|efi|root|verity|vmlinux|manifest\.json|files\.json|spdx\.json|config|cmdline)$"
)


def listing_of(path: Path) -> Listing:
    """The list of files that lies beside an artifact.

    :raises UsageError: when *path* is no artifact, or its list is missing.
    """
    match = _ARTIFACT.match(path.name)
    if not path.exists() or not match:
        raise UsageError(
            f"{path} is no image",
            why="there is no such file" if not path.exists() else "its name is not one that osbuild gives",
        )
    beside = path.with_name(f"{match[1]}.files.json")
    try:
        return msgspec.json.decode(beside.read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"cannot read {beside}", why=str(error), remedy="Build the image again; the list is written beside it"
        ) from error


def inspect(arguments: Arguments) -> int:
    """Print every file with size and origin, the biggest first, and the sum by origin."""
    files = sorted(listing_of(Path(arguments.image)).files, key=lambda file: (-file.size, file.path))
    value = [msgspec.to_builtins(file) for file in files]
    by_origin: dict[str, int] = {}
    for file in files:
        by_origin[file.origin] = by_origin.get(file.origin, 0) + file.size
    rows = [
        (output.size(f.size), f"{f.mode:04o}", f"/{f.path}" + (f" -> {f.target}" if f.target else ""), f.origin)
        for f in files
    ]
    text = output.table(("size", "mode", "path", "from"), rows)
    sums = sorted(by_origin.items(), key=lambda item: -item[1])
    text += "\n\n" + output.table(("size", "from"), [(output.size(count), origin) for origin, count in sums])
    text += f"\n\n{len(files)} files, {output.size(sum(by_origin.values()))} uncompressed"
    output.answer(arguments.form, value, text)
    return 0
