"""systemd-boot's side of a boot: its boot counter, and the times it measured.

A counted entry is ``basalt_<version>+<tries left>-<tries done>.efi``; systemd-boot takes one from the left number before it starts
the kernel, and passes the entry over once that is 0. A node that has proved healthy gets the full number back: not by dropping the
counter, as "blessing" does, because a slot that goes bad months later would then be booted for ever. All names have the same length,
so that a FAT rename rewrites one directory entry in place.
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from basalt.files import sync_directory

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # the Boot Loader Interface's
TRIES = 3

_NAME = re.compile(r"(?P<stem>basalt_[^+/\\]+)\+(?P<left>\d)-(?P<done>\d)\.efi")


class CountedEntry(Struct, frozen=True):
    """The name of a boot entry with a counter."""

    stem: str  # basalt_<version>
    left: int
    done: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.stem}+{self.left}-{self.done}.efi"

    @property
    def armed(self) -> CountedEntry:
        """The same entry with all its tries."""
        return CountedEntry(self.stem, TRIES, 0)


def parse_entry(name: str) -> CountedEntry | None:
    """Read a file name; None when it carries no counter."""
    match = _NAME.fullmatch(name)
    return CountedEntry(match["stem"], int(match["left"]), int(match["done"])) if match else None


def decode_variable(data: bytes) -> str:
    """The text of an EFI variable as efivarfs shows it: four bytes of attributes, then UTF-16 with a terminator."""
    return data[4:].decode("utf-16-le", "replace").split("\0")[0]


def read_variable(efivars: Path, name: str) -> str | None:
    """A variable of the loader; None when the node did not come through systemd-boot."""
    try:
        return decode_variable((efivars / f"{name}-{LOADER_GUID}").read_bytes())
    except OSError:
        return None


class LoaderTimes(Struct, frozen=True):
    """Microseconds since power-on (or what the firmware's counter takes for it)."""

    loader_started_usec: int
    kernel_started_usec: int


def loader_times(efivars: Path) -> LoaderTimes | None:
    """What systemd-boot measured; None without it."""
    started, executed = (read_variable(efivars, name) for name in ("LoaderTimeInitUSec", "LoaderTimeExecUSec"))
    try:
        return LoaderTimes(int(started or ""), int(executed or ""))
    except ValueError:
        return None


def booted_entry(efivars: Path) -> str | None:
    """Path of the running entry on the ESP, ``EFI/Linux/basalt_0.1.0+2-1.efi``; None when the boot is not counted."""
    path = read_variable(efivars, "LoaderBootCountPath")
    return path.replace("\\", "/").lstrip("/") if path else None


def rearm(esp: Path, entry_path: str) -> str | None:
    """Give the running entry its tries back; the new name, or None when it has them.

    *entry_path* is what the loader left before it counted down, so the file is found by its stem.

    :raises OSError: the ESP did not take it; the entry keeps the name it had.
    """
    folder, _, name = entry_path.rpartition("/")
    directory = esp / folder
    wanted = parse_entry(name)
    if wanted is None:
        return None
    for path in directory.iterdir():
        entry = parse_entry(path.name)
        if entry is None or entry.stem != wanted.stem or entry == entry.armed:
            continue
        path.rename(path.with_name(entry.armed.name))
        sync_directory(directory)
        return entry.armed.name
    return None
