"""The hardware watchdog: while machined is well it is fed; when it is not, the machine resets and boot counting takes over.

It stays armed over a restart of machined (the new one finds it and goes on feeding within the timeout) and over an orderly
shutdown (a shutdown that hangs is a hang like any other), so it is never disarmed with the magic close.

The concern "watchdog" gives it the configured timeout and says which device it is.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from basalt.config.documents import MachineConfig
from machined import paths
from machined.reconcile import State, Status, failed

_WDIOC_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int), include/uapi/linux/watchdog.h
_WDIOC_GETTIMEOUT = 0x80045707  # _IOR('W', 7, int)
_INT = struct.Struct("=i")


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

    def set_timeout(self, timeout_s: int) -> str:
        """Change the time after which an unfed watchdog resets the machine; the kernel's words where it keeps its own, else empty."""
        if self._fd is None:
            return ""
        try:
            fcntl.ioctl(self._fd, _WDIOC_SETTIMEOUT, _INT.pack(timeout_s))
        except OSError as error:
            print(f"watchdog: keeps its own timeout: {error}", flush=True)
            return error.strerror or str(error)
        return ""

    def timeout_s(self) -> int:
        """The timeout that the device really has; 0 where that is not known."""
        if self._fd is None:
            return 0
        try:
            (seconds,) = _INT.unpack(fcntl.ioctl(self._fd, _WDIOC_GETTIMEOUT, bytes(_INT.size)))
        except OSError:
            return 0
        return int(seconds)

    def feed(self) -> None:
        """Not now."""
        if self._fd is not None:
            os.write(self._fd, b"\0")


def judge(name: str, wanted_s: int, actual_s: int, refusal: str, limits: str) -> Status:
    """The status of a watchdog that was asked for *wanted_s* and has *actual_s*, in seconds (0: it does not say)."""
    if refusal:
        kept = f"; it stays at {actual_s} s" if actual_s else ""
        return failed(
            f"{name} does not take {wanted_s} s: {refusal}{kept}", limits or "choose another watchdog.timeoutS"
        )
    if actual_s not in (0, wanted_s):
        return Status(State.CONVERGED, f"{name} knows no {wanted_s} s: it resets the machine after {actual_s} s")
    return Status(State.CONVERGED, f"{name} resets the machine after {wanted_s} s")


class WatchdogReconciler:
    """Owns the watchdog's timeout."""

    def __init__(self, node: paths.Paths, watchdog: Watchdog, *, config: Callable[[], MachineConfig | None]) -> None:
        self._device = node.watchdog
        self._attributes = node.sys / "class/watchdog" / node.watchdog.name
        self._watchdog = watchdog
        self._config = config

    async def reconcile(self) -> Status:
        """One look. A device whose driver comes late is armed then."""
        config = self._config()
        wanted_s = config.watchdog.timeout_s if config else paths.WATCHDOG_TIMEOUT_S
        if not self._watchdog.present and not self._watchdog.arm(wanted_s):
            if self._device.exists():
                return failed(f"{self._device} cannot be opened", "another program has it, or its driver is at fault")
            return Status(State.CONVERGED, "this machine has no watchdog: nothing resets it when it hangs")
        refusal = "" if self._watchdog.timeout_s() == wanted_s else self._watchdog.set_timeout(wanted_s)
        return judge(self._attribute("identity") or "it", wanted_s, self._watchdog.timeout_s(), refusal, self._limits())

    def _attribute(self, name: str) -> str:
        """Documentation/ABI/testing/sysfs-class-watchdog."""
        try:
            return (self._attributes / name).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _limits(self) -> str:
        least, most = self._attribute("min_timeout"), self._attribute("max_timeout")
        return f"it takes {least} to {most} s" if least and most not in ("", "0") else ""
