"""What the running image says about itself, and what the kernel says about how it was booted."""

from __future__ import annotations

import json
import re
from pathlib import Path

from msgspec import Struct

_ROOT_HASH = re.compile(r"\bverity 1 \S+ \S+ \d+ \d+ \d+ \d+ \w+ ([0-9a-f]{64})\b")


class Image(Struct, frozen=True):
    """``image.json``, written by osbuild."""

    version: str
    profile: str
    arch: str
    build_epoch: int


def read_image(path: Path) -> Image:
    """The image's own description; "unknown" where it cannot be read, because that is no reason not to answer."""
    try:
        values = json.loads(path.read_bytes())
        return Image(str(values["version"]), str(values["profile"]), str(values["arch"]), int(values["build_epoch"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Image("unknown", "unknown", "unknown", 0)


def read_boot_id(proc: Path) -> str:
    """What tells this boot from all others (random(4)); empty where the kernel does not say."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def root_hash(command_line: str) -> str:
    """The dm-verity root hash in ``dm-mod.create=``; empty when the root is not verified."""
    found = _ROOT_HASH.search(command_line)
    return found[1] if found else ""


def slot_of(label: str) -> str:
    """``A`` or ``B`` from the label of the root partition; empty when it is neither."""
    return {"root-A": "A", "root-B": "B"}.get(label, "")
