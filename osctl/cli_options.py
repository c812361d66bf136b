"""What options of several commands share: how their values are read, and options that more than one command has."""

from __future__ import annotations

import argparse
import datetime
import re
import time
from typing import NamedTuple

from basalt.commandline import Option, option, seconds
from basalt.endpoint import DEFAULT_TIMEOUT_S
from basalt.roles import Role


def count(text: str) -> int:
    """A number of lines, or of a generation."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines or of a generation")
    return int(text)


def lifetime(text: str) -> datetime.timedelta:
    """How long a certificate is valid."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no lifetime; write hours or days, such as 12h or 90d")
    return datetime.timedelta(**{"hours" if match[2] == "h" else "days": int(match[1])})


def role(text: str) -> Role:
    """A role by its short name."""
    try:
        return Role.parse(text)
    except ValueError:
        known = ", ".join(role.short for role in Role)
        raise argparse.ArgumentTypeError(f"{text!r} is no role (choose from {known})") from None


def trial_seconds(text: str) -> int:
    """How long a configuration is on trial."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or not 10 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of seconds from 10 to 86400")
    return int(text)


class Part(NamedTuple):
    """A workload, or one of its containers."""

    name: str
    container: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.container}" if self.container else self.name


def part_of_workload(text: str) -> Part:
    """A workload or one of its containers."""
    name, slash, container = text.partition("/")
    if not name or (slash and not container) or "/" in container:
        raise argparse.ArgumentTypeError(f"{text!r} is no workload or container; write NAME or NAME/CONTAINER")
    return Part(name, container)


_UNITS_S = {"d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:min|[dhms]))+")
_PART = re.compile(r"([0-9]+)(min|[dhms])")


def since(text: str) -> float:
    """An instant in seconds since 1970: so long ago (``90s``, ``1h30m``), or a date and time (ISO 8601), by default in UTC."""
    if _DURATION.fullmatch(text):
        return max(time.time() - sum(int(count) * _UNITS_S[unit] for count, unit in _PART.findall(text)), 0.0)
    try:
        instant = datetime.datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a length of time such as 90s, 10m, 1h30m or 2d, nor a date and time such as 2026-11-25T10:19:38"
        ) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=datetime.UTC)
    return max(instant.timestamp(), 0.0)


def wait(what: str) -> Option:
    """Follow something to its end."""
    return option(
        "--wait", nargs="?", type=seconds, const=600.0, metavar="S", help=f"{what}, at most S seconds (default 600)"
    )


NODE_OPTIONS = (
    option(
        "-n",
        "--nodes",
        metavar="A,B",
        help="nodes of the context by name or HOST:PORT, or 'all'; default: the context's default node",
    ),
    option("-e", "--endpoint", metavar="HOST:PORT", help="speak to this address, whether or not the context knows it"),
    option(
        "--fingerprint",
        metavar="SHA256:...",
        help="recognise the node by its first certificate, whose fingerprint its console shows, this once: a node that the "
        "context does not know, or one that cannot prove its id any more",
    ),
    option("--context", metavar="NAME", help="use this context instead of the current one"),
    option(
        "--timeout",
        metavar="S",
        type=seconds,
        help=f"seconds that a node may take to answer a call (default {DEFAULT_TIMEOUT_S:.0f})",
    ),
)

FILE = option("-f", "--file", required=True, metavar="FILE", help="YAML documents; - reads standard input")
DRY_RUN = option("--dry-run", action="store_true", help="show what would change, and change nothing")
TAIL = option("--tail", type=count, default=0, metavar="N", help="only the last N lines of what is there")
FOLLOW = option("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")

# How a configuration is put into force, and what osctl does after it.
APPLYING = (
    option(
        "--mode",
        choices=("auto", "no-reboot", "reboot", "staged", "try"),
        default="auto",
        help="auto: at once, with a reboot where one is needed, and on trial where it touches the way by which you came; "
        "no-reboot: refuse where a reboot is needed; reboot: with one in any case; staged: in force from the next boot on; "
        "try: taken back unless confirmed in time",
    ),
    option(
        "--try-timeout",
        type=trial_seconds,
        default=0,
        metavar="S",
        help="how long a configuration that is on trial waits to be confirmed, whole seconds (default 300)",
    ),
    option(
        "--confirm",
        action="store_true",
        help="keep a configuration that is on trial as soon as a new connection to the node works",
    ),
    wait("where the node reboots, wait until it is back"),
)
EXPECTED_GENERATION = option(
    "--expected-generation",
    type=count,
    default=0,
    metavar="N",
    help="refuse unless generation N stands now: nobody else has changed it since you looked",
)
EXIT_CODES = (
    "It ends with 0 when the node has taken the configuration, whether it stands, is staged or is on trial; with 2 when the "
    "documents are wrong; with 3 when it is on trial and the node does not answer a new connection before that is over; with 4 "
    "when the node refused (another generation stands, a trial is running, a reboot would be needed)."
)

# SUPPRESS: a --context before the command must not be overwritten by a default after it.
CONTEXT = option("--context", metavar="NAME", default=argparse.SUPPRESS, help="default: the current one")
