"""The one way in which the daemon runs another program: no shell, no inherited input, the end of its output in the error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from basalt.errors import BasaltError

TAIL_BYTES = 600  # of a failing program's output: its last words, not its life story


async def run(argv: Sequence[str], *, stdin: bytes = b"", accept: frozenset[int] = frozenset({0})) -> str:
    """Run *argv* and return its standard output.

    :param accept: exit codes that are no failure (e2fsck answers 1 for "repaired").
    :raises BasaltError: it could not be started, or ended otherwise; *why* holds the last lines it wrote.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        raise BasaltError(f"cannot start {argv[0]}", why=str(error)) from error
    output, complaints = await process.communicate(stdin)
    if process.returncode not in accept:
        said = (complaints + output)[-TAIL_BYTES:].decode(errors="replace").strip()
        raise BasaltError(f"{' '.join(argv)} failed with {process.returncode}", why=said)
    return output.decode(errors="replace")
