"""What an ELF file needs of others: interpreter, libraries, and the name it goes by (System V gABI, chapter 5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment


@dataclass(frozen=True)
class Elf:
    """*needed* are sonames (DT_NEEDED), *interpreter* the path of the dynamic loader, or ""."""

    needed: tuple[str, ...]
    soname: str
    interpreter: str


def read_elf(path: Path) -> Elf | None:
    """The facts of an ELF file; None when *path* is none."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        stream.seek(0)
        try:
            needed: list[str] = []
            soname = interpreter = ""
            segment: Any  # what a segment offers depends on its type
            for segment in ELFFile(stream).iter_segments():
                if isinstance(segment, InterpSegment):
                    interpreter = segment.get_interp_name()
                elif isinstance(segment, DynamicSegment):
                    tags: Any = segment.iter_tags()
                    for tag in tags:
                        if tag.entry.d_tag == "DT_NEEDED":
                            needed.append(tag.needed)
                        elif tag.entry.d_tag == "DT_SONAME":
                            soname = tag.soname
        except ELFError:
            return None
        return Elf(tuple(needed), soname, interpreter)
