"""The project's hardening policy: what a configuration must say, and what it may say instead for a stated reason.

``kernel-config/policy.toml`` holds the requirements in tables by concern, then the exceptions::

    [require.memory]
    INIT_ON_FREE_DEFAULT_ON = "y"

    [[exception]]
    symbol = "INIT_ON_FREE_DEFAULT_ON"
    reason = "3 to 5 % of system time for what INIT_ON_ALLOC gives already"

A requirement that is not met is *excepted* when the file says why, and *failed* otherwise. An exception whose requirement is met is
*stale*: it would hide the next regression.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from basalt.errors import UsageError


class Exemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One symbol that may differ from what is required of it."""

    symbol: str
    reason: str


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The policy file. *require* maps concern → symbol → value; ``n`` means off or absent."""

    require: dict[str, dict[str, str]]
    exception: list[Exemption] = []


@dataclass(frozen=True)
class Finding:
    """A requirement that is not met. *reason* is the exception's, empty where there is none."""

    symbol: str
    concern: str
    required: str
    actual: str
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """How a configuration stands against the policy. *met* counts; *stale* names exceptions nobody needs."""

    met: int
    failed: tuple[Finding, ...]
    excepted: tuple[Finding, ...]
    stale: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when every requirement is met or excepted."""
        return not self.failed


def parse(text: str, name: str) -> Policy:
    """Read a policy file; *name* is for errors.

    :raises UsageError: when it is not TOML, has unknown keys, or contradicts itself.
    """
    try:
        policy = msgspec.convert(tomllib.loads(text), Policy)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{name} is not a policy", why=str(error), remedy="See docs/guides/kernel.md") from error
    required = [symbol for table in policy.require.values() for symbol in table]
    excepted = [exception.symbol for exception in policy.exception]
    for symbol in excepted:
        if symbol not in required:
            raise UsageError(f"{name}: an exception for {symbol}, of which nothing is required", remedy="Remove it")
    for symbol in required + excepted:
        if required.count(symbol) > 1 or excepted.count(symbol) > 1:
            raise UsageError(f"{name}: {symbol} is named twice", remedy="Remove one of them")
    for exception in policy.exception:
        if not exception.reason.strip():
            raise UsageError(f"{name}: the exception for {exception.symbol} has no reason", remedy="Give one")
    return policy


def evaluate(policy: Policy, final: Mapping[str, str]) -> Verdict:
    """The verdict of *policy* on the configuration *final* (symbol → value, absent = off)."""
    reasons = {exception.symbol: exception.reason for exception in policy.exception}
    met: set[str] = set()
    failed, excepted = [], []
    for concern, table in policy.require.items():
        for symbol, required in table.items():
            actual = final.get(symbol, "n")
            if actual == required:
                met.add(symbol)
            elif symbol in reasons:
                excepted.append(Finding(symbol, concern, required, actual, reasons[symbol]))
            else:
                failed.append(Finding(symbol, concern, required, actual))
    return Verdict(len(met), tuple(failed), tuple(excepted), tuple(symbol for symbol in reasons if symbol in met))
