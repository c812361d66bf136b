"""The operator's terminal while a command runs in a container: its mode, its size, and what is typed into it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator

from basalt.errors import UsageError
from basalt.machine.v1 import containers_pb2 as api

STDIN = 0

# Of standard input in one message.
INPUT_BYTES = 64 * 1024


def require(fd: int = STDIN) -> None:
    """Refuse to go on without a terminal.

    :raises UsageError: when standard input is none.
    """
    if not os.isatty(fd):
        raise UsageError(
            "cannot give the command a terminal",
            why="standard input is none",
            remedy="leave out -t; -i alone sends standard input as it is",
        )


@contextlib.contextmanager
def raw(fd: int = STDIN, *, signals: bool = False) -> Iterator[None]:
    """Keys go through as they are for as long as the body runs, and then the terminal is as before, whatever happened.

    :param signals: Ctrl-C and the like stay the local terminal's: for a command that gets no input, and so could not see them.
    """
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        if signals:
            mode = termios.tcgetattr(fd)
            mode[3] |= termios.ISIG
            termios.tcsetattr(fd, termios.TCSADRAIN, mode)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def size(fd: int = STDIN) -> api.TerminalSize | None:
    """The terminal's size; None where it does not know it, as a serial line does not."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return api.TerminalSize(rows=rows, columns=columns) if rows and columns else None


class Input:
    """What follows the first request of an exec: input and sizes as they come, until :meth:`stop`.

    One thread (gRPC's, which iterates) waits for standard input and for a pipe; the signal handler and :meth:`stop` reach it through
    the pipe. So nothing of the input is read before the node takes it, and no thread is left waiting for keys.

    :param fd: where input comes from; None sends none.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def resized(self, *_: object) -> None:
        """The terminal has another size now. May be called from a signal handler."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of the same
            os.write(self._waker, b".")

    def stop(self) -> None:
        """Nothing more is to be sent."""
        os.close(self._waker)

    def __iter__(self) -> Iterator[api.WorkloadExecRequest]:
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        if self._fd is not None:
            waiting.register(self._fd, select.POLLIN)
        else:
            yield api.WorkloadExecRequest(end_of_input=True)
        try:
            while True:
                for ready, _ in waiting.poll():
                    if ready == self._wake:
                        if not os.read(self._wake, 4096):
                            return
                        if now := size():
                            yield api.WorkloadExecRequest(size=now)
                    elif data := _read(ready):
                        yield api.WorkloadExecRequest(input=data)
                    else:
                        waiting.unregister(ready)
                        yield api.WorkloadExecRequest(end_of_input=True)
        finally:
            os.close(self._wake)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, INPUT_BYTES)
    except OSError:  # closed, or a terminal that has gone away
        return b""


@contextlib.contextmanager
def on_resize(act: Callable[..., None]) -> Iterator[None]:
    """Call *act* whenever the terminal gets another size."""
    before = signal.signal(signal.SIGWINCH, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before or signal.SIG_DFL)
