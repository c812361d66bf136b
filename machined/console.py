"""The lines that a node says on its console; tests and ``osbuild boot`` read them, so their form is fixed.

The console may be a serial line that nobody reads: writing never blocks, and a line that does not fit is lost rather than the
node held up.
"""

from __future__ import annotations

import os
from pathlib import Path


class Console:
    """Writes ``basalt: …`` lines to the kernel's console at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, text: str) -> None:
        """Write one line. A console that cannot be opened (headless, or a test without one) is not an error of the node."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_APPEND)
        except OSError:
            return
        try:
            os.write(fd, f"basalt: {text}\n".encode())
        except BlockingIOError:
            return
        finally:
            os.close(fd)

    def state_ready(self) -> None:
        """STATE is mounted and the node knows who it is."""
        self.say("state ready")

    def api_ready(self, port: int, mode: str) -> None:
        """The gateway answers."""
        self.say(f"api ready on :{port} mode={mode}")
        if mode == "locked":
            self.say(
                "locked: no client CA is known, so the API refuses everybody. Give the node one: build the image with "
                "'osbuild image --client-ca FILE', or hand it over by fw_cfg opt/basalt/client-ca, the kernel command "
                "line, SMBIOS or a drive"
            )

    def fingerprint(self, fingerprint: str) -> None:
        """SHA-256 of the node's DER certificate, which ``osctl`` pins."""
        self.say(f"fingerprint {fingerprint}")

    def address(self, link: str, address: str) -> None:
        """An address under which the node can be reached, with its prefix length."""
        self.say(f"address {link} {address}")

    def version(self, version: str) -> None:
        """The version of the running image."""
        self.say(f"version {version}")

    def trial_began(self, generation: int, left_s: float) -> None:
        """A configuration is in force that is taken back unless somebody confirms it."""
        self.say(f"configuration {generation} is on trial for {left_s:.0f} s")

    def trial_ended(self, generation: int, reason: str) -> None:
        """A configuration on trial was taken back."""
        self.say(f"configuration {generation} was taken back: {reason}")
