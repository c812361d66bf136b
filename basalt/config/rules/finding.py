"""What a rule finds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from basalt.config.tree import Path


class Finding(NamedTuple):
    """One thing that is wrong; *path* is below the Struct that the rule was given."""

    path: Path
    found: str
    allowed: str = ""


def repeated(values: Iterable[tuple[Path, Hashable]], what: str) -> Iterator[Finding]:
    """A finding for each value that stands there again. The values are shown: none may be a secret."""
    seen: set[Hashable] = set()
    for path, value in values:
        if value in seen:
            yield Finding(path, f"{what} {value} again", "each once")
        seen.add(value)
