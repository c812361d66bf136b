"""Talking to a running QEMU over QMP, by the ``qemu.qmp`` library."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from basalt.errors import BasaltError

_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)")


def execute(socket: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """One command on the QEMU behind *socket*; returns what it answers.

    :raises BasaltError: when nobody listens, or QEMU refuses.
    """
    # The library logs what it raises as well.
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    # sun_path holds 108 bytes; the way over an open directory keeps any length of path usable.
    directory = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return asyncio.run(_execute(f"/proc/self/fd/{directory}/{socket.name}", command, dict(arguments or {})))
    except (TimeoutError, QMPError, OSError, EOFError) as error:  # EOFError: QEMU went away meanwhile
        raise BasaltError(f"QEMU does not answer '{command}'", why=str(error) or type(error).__name__) from error
    finally:
        os.close(directory)


async def _execute(address: str, command: str, arguments: dict[str, Any]) -> Any:
    client = QMPClient("osbuild")
    async with asyncio.timeout(20):
        await client.connect(address)
        try:
            return await client.execute(command, arguments)
        finally:
            await client.disconnect()


def forwarded_port(socket: Path, guest_port: int) -> int:
    """The port of 127.0.0.1 that leads to *guest_port*.

    :raises BasaltError: when QEMU forwards none.
    """
    text: str = execute(socket, "human-monitor-command", {"command-line": "info usernet"})
    for match in _FORWARD.finditer(text):
        if int(match[2]) == guest_port:
            return int(match[1])
    raise BasaltError(f"QEMU forwards no port to {guest_port}", why=text)
