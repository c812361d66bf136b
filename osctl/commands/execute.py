"""workload exec: a command in a container, as if it ran here."""

from __future__ import annotations

import contextlib
import os
import sys

from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.errors import BasaltError, UsageError
from basalt.machine.v1 import containers_pb2 as api
from osctl import terminal
from osctl.selection import targets_of, timeout_of
from osctl.streaming import write


def execute(arguments: Arguments) -> int:
    targets = targets_of(arguments)
    if len(targets) != 1:
        raise UsageError("a command runs on one node at a time", remedy="name one node with -n NAME")
    if arguments.terminal:
        terminal.require()
    # Before Python 3.13 argparse leaves a "--" that comes after another option.
    command = arguments.words[1:] if arguments.words[0] == "--" else arguments.words
    if not command:
        raise UsageError("no command is named", remedy="it comes after --, such as `-- ls /`")
    # Not in a thread as other commands: signals and the terminal are the main thread's.
    return _run(targets[0], arguments, command)


def _run(target: Target, arguments: Arguments, command: list[str]) -> int:
    further = terminal.Input(terminal.STDIN if arguments.input else None)
    with contextlib.ExitStack() as stack:
        stack.callback(further.stop)
        client = stack.enter_context(connect(target, timeout_s=timeout_of(arguments)))
        if arguments.terminal:
            stack.enter_context(terminal.on_resize(further.resized))
            stack.enter_context(terminal.raw(signals=not arguments.input))
        kind = os.environ.get("TERM")
        answers = client.workload_exec(
            arguments.workload.name,
            command,
            container=arguments.workload.container,
            terminal=arguments.terminal,
            env=[f"TERM={kind}"] if arguments.terminal and kind else (),
            size=terminal.size() if arguments.terminal else None,
            further=further,
        )
        for answer in answers:
            _show(answer)
            if answer.ended:
                return _exit_code(answer.exit_code)
    raise BasaltError(
        f"{target} ended the command in {arguments.workload} without saying how it ended",
        remedy="`osctl workload list` shows whether its container still runs",
    )


def _show(answer: api.WorkloadExecResponse) -> None:
    if answer.output:
        write(answer.output)
    if answer.error:
        write(answer.error, sys.stderr.buffer)


def _exit_code(code: int) -> int:
    """As a process can end with it; never 0 for a command that did not."""
    return code if 0 <= code <= 255 else 255
