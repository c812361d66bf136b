"""The hardware watchdog: while machined is well it is fed; when it is not, the machine resets and boot counting takes over.

It stays armed over a restart of machined (the new one finds it and goes on feeding within the timeout) and over an orderly
shutdown (a shutdown that hangs is a hang like any other), so it is never disarmed with the magic close.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_WDIOC_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int), include/uapi/linux/watchdog.h


class Watchdog:
    """The device at *path*. A machine without one runs without."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def present(self) -> bool:
        """Whether it is armed."""
        return self._fd is not None

    def arm(self, timeout_s: int) -> bool:
        """Open it, which arms it; whether there is one. EBUSY means that another process has it: then that one feeds it."""
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        self.set_timeout(timeout_s)
        return True

    def set_timeout(self, timeout_s: int) -> None:
        """Change the time after which an unfed watchdog resets the machine; a driver may know only its own."""
        if self._fd is None:
            return
        try:
            fcntl.ioctl(self._fd, _WDIOC_SETTIMEOUT, struct.pack("=i", timeout_s))
        except OSError as error:
            print(f"watchdog: keeps its own timeout: {error}", flush=True)

    def feed(self) -> None:
        """Not now."""
        if self._fd is not None:
            os.write(self._fd, b"\0")
