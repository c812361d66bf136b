"""Following a node through its reboot or to its end."""

from __future__ import annotations

import socket
import time

from basalt.client import Target, connect, tls
from basalt.client.diagnosis import FingerprintMismatchError
from basalt.errors import BasaltError, UnreachableError
from basalt.machine.v1 import machine_pb2 as api

# Between two looks at a node that is down.
POLL_INTERVAL_S = 1.0

# A node that is up accepts a connection within this, even under emulation.
CONNECT_TIMEOUT_S = 5.0


def reboot_and_wait(target: Target, *, timeout_s: float, wait_s: float) -> api.VersionResponse:
    """Reboot a node and return when another boot of it answers.

    The kernel's boot id tells the boots apart: a node that merely takes its time to go down still has the old one.

    :param timeout_s: for each call; :param wait_s: for the whole way.
    :raises UnreachableError: when it is not back in time, or came back as somebody else.
    """
    with connect(target, timeout_s=timeout_s) as client:
        before = client.version().boot_id
        client.reboot()
    end = time.monotonic() + wait_s
    last: BasaltError | None = None
    while (left := end - time.monotonic()) > 0:
        try:
            # A look that costs little first: a call to a machine that is half way up may hang until its deadline.
            tls.fetch_certificate(target.endpoint, timeout_s=min(CONNECT_TIMEOUT_S, left))
            with connect(target, timeout_s=min(timeout_s, left)) as client:
                now = client.version()
        except FingerprintMismatchError:
            raise
        except BasaltError as error:
            # On its way down and up a node refuses in many ways; all but a wrong identity may pass.
            last = error
        else:
            if now.boot_id != before:
                return now
        time.sleep(min(POLL_INTERVAL_S, max(0.0, end - time.monotonic())))
    raise UnreachableError(
        f"{target} is not back {wait_s:.0f} s after its reboot",
        why=str(last) if last is not None else "it answers, but has not gone down",
        remedy="look at its console; `osctl status` shows it once it answers",
    )


def wait_until_gone(target: Target, *, wait_s: float) -> None:
    """Return when nothing listens at the node's address any more.

    An API that is silent is not enough: it goes long before the file systems are unmounted.

    :raises BasaltError: when it is still there after *wait_s*.
    """
    end = time.monotonic() + wait_s
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection(target.endpoint, min(CONNECT_TIMEOUT_S, left)).close()
        except OSError:
            return
        time.sleep(min(POLL_INTERVAL_S, max(0.0, end - time.monotonic())))
    raise BasaltError(f"{target} still listens {wait_s:.0f} s after it was switched off", remedy="look at its console")
