"""The final ``.config``, and where it differs from what was asked.

Kconfig drops a symbol whose dependencies are missing without a word, and turns on what another symbol selects. Both are found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

_SET = re.compile(r"CONFIG_(\w+)=(.*)")
_DEFINITION = re.compile(r"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """Symbol → value of a ``.config``. What is "not set" is absent, like what the kernel does not have."""
    return {match[1]: match[2] for line in text.splitlines() if (match := _SET.fullmatch(line))}


def defined_symbols(kconfig: str) -> set[str]:
    """The symbols that the text of a Kconfig file defines."""
    return set(_DEFINITION.findall(kconfig))


@dataclass(frozen=True)
class Difference:
    """A symbol that did not become what was asked. Values as in a fragment; *known* is false when no Kconfig file has it."""

    symbol: str
    asked: str
    got: str
    known: bool = True

    def __str__(self) -> str:
        if not self.known:
            return f"CONFIG_{self.symbol}={self.asked}: this kernel has no such symbol"
        cause = (
            "a dependency is missing"
            if self.got == "n"
            else "something selects it"
            if self.asked == "n"
            else "overridden"
        )
        return f"CONFIG_{self.symbol}: asked {self.asked}, got {self.got} ({cause})"


def differences(
    request: Mapping[str, str], final: Mapping[str, str], known: AbstractSet[str] | None = None
) -> list[Difference]:
    """Where *final* is not what *request* asks, in the request's order.

    :param known: symbols of the kernel's source. A refusal (``n``) of a symbol that is not among them is a difference too: it is a
        typing error, or protects against nothing any more. ``None`` leaves that out.
    """
    found = []
    for symbol, asked in request.items():
        got = final.get(symbol, "n")
        exists = known is None or symbol in known
        if got != asked or not exists:
            found.append(Difference(symbol, asked, got, exists))
    return found


@dataclass(frozen=True)
class Counts:
    """How many symbols are built in, and how many are modules."""

    builtin: int
    modules: int


def counts(final: Mapping[str, str]) -> Counts:
    """Count the symbols that are ``y`` and ``m``."""
    chosen: Iterable[str] = list(final.values())
    return Counts(sum(value == "y" for value in chosen), sum(value == "m" for value in chosen))
