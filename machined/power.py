"""Reboot and power-off, as far as machined carries them: the rest is PID 1's (:mod:`machined.finish`)."""

from __future__ import annotations

from pathlib import Path

from machined.network.names import put

REBOOT = "reboot"
POWER_OFF = "poweroff"
ANSWER_GRACE_S = 0.5  # for the answer to reach the caller before the connection goes
SERVICE_STOP_MS = 15_000
WATCHDOG_SHUTDOWN_S = 180  # a shutdown that takes longer hangs


def pending(path: Path) -> str:
    """The end that was asked for earlier in this boot; empty when none was. A machined killed in the middle finds it here."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def request(path: Path, action: str) -> None:
    """Tell PID 1 what to do once the services have ended."""
    put(path, f"{action}\n")
