"""Following a node through its reboot or to its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from basalt.client import Target, connect, tls
from basalt.client.recognition import WrongNodeError
from basalt.errors import BasaltError, UnreachableError
from basalt.machine.v1 import machine_pb2 as api

# Between two looks at a node that is down.
POLL_INTERVAL_S = 1.0

# A node that is up accepts a connection within this, even under emulation.
CONNECT_TIMEOUT_S = 5.0

# A call that hangs because the node went down under it costs no more than this.
LOOK_TIMEOUT_S = 10.0


# Told how far a node is, in words.
Tell = Callable[[str], None]


def reboot_and_wait(
    target: Target, *, timeout_s: float, wait_s: float, tell: Tell = lambda _: None
) -> api.VersionResponse:
    """Reboot a node and return when another boot of it answers.

    The kernel's boot id tells the boots apart: a node that merely takes its time to go down still has the old one.

    :param timeout_s: for each call.
    :param wait_s: for the whole way; no look at the node is begun after it.
    :raises UnreachableError: when it is not back in time, or came back as somebody else.
    """
    with connect(target, timeout_s=timeout_s) as client:
        before = client.version().boot_id
        last = _order(client.reboot)
    return wait_for_next_boot(target, before, timeout_s=timeout_s, wait_s=wait_s, last=last, tell=tell)


def wait_for_next_boot(
    target: Target,
    before: str,
    *,
    timeout_s: float,
    wait_s: float,
    last: BasaltError | None = None,
    tell: Tell = lambda _: None,
) -> api.VersionResponse:
    """Return when a boot other than *before* (its boot id) answers.

    :param tell: told when it goes down and when it is back.
    :param last: the error to report where none is seen before the time is up.
    :raises UnreachableError: when it is not back in time, or came back as somebody else.
    """
    end = time.monotonic() + wait_s
    down = False
    while time.monotonic() < end:
        try:
            # A look that costs little first: a call to a machine that is half way up may hang until its deadline.
            tls.fetch_certificate(target.endpoint, timeout_s=CONNECT_TIMEOUT_S)
            with connect(target, timeout_s=min(timeout_s, LOOK_TIMEOUT_S)) as client:
                now = client.version()
        except WrongNodeError:
            raise
        except BasaltError as error:
            # On its way down and up a node refuses in many ways; all but a wrong identity may pass.
            last = error
            if not down:
                down = True
                tell(f"rebooting, for {wait_s:.0f} s at most")
        else:
            if now.boot_id != before:
                tell("is back")
                return now
            last = None
        time.sleep(POLL_INTERVAL_S)
    raise UnreachableError(
        f"{target} is not back {wait_s:.0f} s after its reboot",
        why=str(last) if last is not None else "it answers, but has not gone down",
        remedy="look at its console; `osctl status` shows it once it answers",
    )


def shut_down_and_wait(target: Target, *, timeout_s: float, wait_s: float) -> None:
    """Switch a node off and return when nothing listens at its address any more.

    An API that is silent is not enough: it goes long before the file systems are unmounted.

    :raises BasaltError: when it is still there after *wait_s*.
    """
    with connect(target, timeout_s=timeout_s) as client:
        client.version()
        _order(client.shutdown)
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        try:
            socket.create_connection(target.endpoint, CONNECT_TIMEOUT_S).close()
        except OSError:
            return
        time.sleep(POLL_INTERVAL_S)
    raise BasaltError(f"{target} still listens {wait_s:.0f} s after it was switched off", remedy="look at its console")


def _order(call: Callable[[], None]) -> BasaltError | None:
    """Ask a node that has just answered to go down. It may obey faster than its answer travels: that is no failure yet.

    :returns: the error, for the case that it stays.
    """
    try:
        call()
    except UnreachableError as error:
        return error
    return None
