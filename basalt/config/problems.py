"""What is wrong with a configuration: every problem at once, each where it stands."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from basalt.errors import UsageError

# A file that is no configuration at all has a problem on every line; nobody reads more than this.
MAX_PROBLEMS = 50


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a file, counted from 1 as editors do; columns count characters."""

    line: int
    column: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    source: str  # the file's name
    position: Position
    path: str  # "$.links[0].mtu"
    found: str  # "found 99999", "unknown field 'mtuu'"
    allowed: str = ""  # in words; empty where `found` says it all
    nearest: str = ""  # the valid name that was probably meant

    def __str__(self) -> str:
        where = f"{self.source}:{self.position.line}:{self.position.column}: {self.path}"
        meant = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{where}: {self.found}{meant}{f'; allowed: {self.allowed}' if self.allowed else ''}"


class ConfigError(UsageError):
    """Documents are not a valid configuration; nothing was changed. ``problems`` is sorted by position."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.position))
        shown = [str(problem) for problem in self.problems[:MAX_PROBLEMS]]
        if len(self.problems) > MAX_PROBLEMS:
            shown.append(f"and {len(self.problems) - MAX_PROBLEMS} more problems")
        super().__init__(f"{source} is not valid", why="\n".join(shown))

    def __str__(self) -> str:
        return f"{self.what}:\n{self.why}"

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "problems": [msgspec.to_builtins(problem) for problem in self.problems]}


def nearest_name(found: str, known: Iterable[str]) -> str:
    """The name in *known* that *found* was probably meant to be; empty where none is close."""
    names = list(known)
    folded = {name.lower().replace("-", "").replace("_", ""): name for name in names}
    exact = folded.get(found.lower().replace("-", "").replace("_", ""))
    if exact is not None:
        return exact
    import difflib

    return next(iter(difflib.get_close_matches(found, names, n=1)), "")
