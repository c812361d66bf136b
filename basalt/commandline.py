"""A command line as one table: the parser, the help and the reference page are all made from it.

A :class:`Command` names the function that runs it as ``module:function``; it is imported when it is called, so that a
command that needs little starts fast. :func:`run` turns whatever that raises into words and an exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any

from basalt.errors import BasaltError, ExitCode

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Option:
    """One argument of a command: what ``ArgumentParser.add_argument`` takes."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


def option(*flags: str, **settings: Any) -> Option:
    return Option(flags, settings)


@dataclass(frozen=True)
class Command:
    """One command."""

    words: tuple[str, ...]  # ("context", "add-node")
    summary: str  # one line, no full stop
    entry: str  # "module:function" within Program.package
    example: str
    options: tuple[Option, ...] = ()
    detail: str = ""  # what the summary leaves out
    reads: bool = False  # has -o table|json|yaml
    shared: bool = False  # has the program's shared options


@dataclass(frozen=True)
class Program:
    """A program: its commands, and options that many of them share."""

    name: str
    summary: str
    package: str
    commands: tuple[Command, ...]
    groups: dict[str, str]  # first word of a command of two → one line of help
    shared_title: str = ""
    shared: tuple[Option, ...] = ()
    interrupted: str = ""  # said after Ctrl-C


# Told of an error; True when it has removed the cause, so that the command is worth running again.
Recovery = Callable[[BasaltError, Arguments], bool]


def seconds(text: str) -> float:
    """A duration on the command line, as an option's ``type``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 86400")
    return value


FORMS = ("table", "json", "yaml")
FORM = option(
    "-o", dest="form", choices=FORMS, default="table", help="form of the answer: for people (table) or programs"
)


def build_parser(program: Program) -> argparse.ArgumentParser:
    """The parser for *program*. Shared options may stand before the command and after it."""
    parser = argparse.ArgumentParser(prog=program.name, description=program.summary, allow_abbrev=False)
    _add_shared(parser, program, default=None)
    top = parser.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, Any] = {}
    for command in program.commands:
        parent: Any = top
        if len(command.words) > 1:
            group = command.words[0]
            if group not in groups:
                holder = top.add_parser(
                    group, help=program.groups[group], description=f"{program.groups[group]}.", allow_abbrev=False
                )
                groups[group] = holder.add_subparsers(metavar="COMMAND", required=True)
            parent = groups[group]
        sub = parent.add_parser(
            command.words[-1],
            help=command.summary,
            description=f"{command.summary}. {command.detail}".strip(),
            epilog=f"Example: {command.example}",
            allow_abbrev=False,
        )
        for entry in (*command.options, *((FORM,) if command.reads else ())):
            sub.add_argument(*entry.flags, **entry.settings)
        if command.shared:
            # SUPPRESS: what stood before the command must not be overwritten by a default after it.
            _add_shared(sub, program, default=argparse.SUPPRESS)
        sub.set_defaults(command=command)
    return parser


def _add_shared(parser: argparse.ArgumentParser, program: Program, *, default: Any) -> None:
    if not program.shared:
        return
    group = parser.add_argument_group(program.shared_title)
    for entry in program.shared:
        group.add_argument(*entry.flags, **{**entry.settings, "default": default})


def run(program: Program, argv: Sequence[str] | None = None, *, recover: Recovery | None = None) -> int:
    """Run one command of *program*.

    :param recover: asked once when the command fails.
    :returns: its exit code, see :class:`basalt.errors.ExitCode`.
    """
    signal.signal(signal.SIGTERM, _terminated)
    arguments = build_parser(program).parse_args(argv)
    command: Command = arguments.command
    module, _, function = command.entry.partition(":")
    try:
        entry: Callable[[Arguments], int] = getattr(import_module(f"{program.package}.{module}"), function)
        try:
            code = entry(arguments)
        except BasaltError as error:
            if recover is None or not recover(error, arguments):
                raise
            code = entry(arguments)
        sys.stdout.flush()
        return code
    except BasaltError as error:
        report_error(program.name, error, as_json=getattr(arguments, "form", "") == "json")
        return error.exit_code
    except KeyboardInterrupt:
        if program.interrupted:
            print(program.interrupted, file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (head, less); the interpreter must not trip over it again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        report_unexpected(program.name, error)
        return ExitCode.FAILED


def report_error(program: str, error: BasaltError, *, as_json: bool = False) -> None:
    """Print *error* to standard error: what, why, and what to do."""
    if as_json:
        print(json.dumps(error.as_dict()), file=sys.stderr)
        return
    print(f"{program}: error: {error.what}", file=sys.stderr)
    for line in error.why.splitlines():
        print(f"    {line}", file=sys.stderr)
    for line in error.remedy.splitlines():
        print(f"  -> {line}", file=sys.stderr)


def report_unexpected(program: str, error: Exception) -> None:
    """A bug of ours: one line for the user, the traceback in a file."""
    with tempfile.NamedTemporaryFile("w", prefix=f"{program}-{os.getuid()}-", suffix=".log", delete=False) as stream:
        traceback.print_exception(error, file=stream)
    print(f"{program}: internal error: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  -> this is a bug; its details are in {stream.name}", file=sys.stderr)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    # SIGTERM unwinds like Ctrl-C, so that files and connections go the same way.
    raise KeyboardInterrupt
