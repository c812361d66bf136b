"""The one way in which the daemon runs another program: no shell, no inherited input, what it complained about in the error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from basalt.errors import BasaltError

SAID_MAX = 240  # characters of a failing program's output: enough to know why, short enough for a status line


async def run(
    argv: Sequence[str], *, stdin: bytes = b"", accept: frozenset[int] = frozenset({0}), name: str | None = None
) -> str:
    """Run *argv* and return its standard output.

    :param name: what the program is told that it is called, for one that does as its name says (kmod).
    :param accept: exit codes that are no failure (e2fsck answers 1 for "repaired").
    :raises BasaltError: it could not be started, or ended otherwise; *why* holds what it said.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            name or argv[0],
            *argv[1:],
            executable=argv[0],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        raise BasaltError(f"cannot start {argv[0]}", why=str(error)) from error
    output, complaints = await process.communicate(stdin)
    if process.returncode not in accept:
        raise BasaltError(
            f"{' '.join([name or argv[0], *argv[1:]])} failed with {process.returncode}", why=_said(complaints + output)
        )
    return output.decode(errors="replace")


def _said(output: bytes) -> str:
    """What a program complained about, on one line."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    said = "; ".join(line for line in lines if line)
    return said if len(said) <= SAID_MAX else f"{said[:SAID_MAX]}…"
