"""The commands of osbuild as one table, from which the parser, the help and the reference page are made."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from basalt.errors import BasaltError
from osbuild.pipeline import FORMATS

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Option:
    """One argument of a command: what ``add_argument`` takes."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


def _option(*flags: str, **settings: Any) -> Option:
    return Option(flags, settings)


@dataclass(frozen=True)
class Command:
    """One command: words that name it, one line of help, ``module:function`` that runs it, and an example."""

    words: tuple[str, ...]
    summary: str
    entry: str
    example: str
    options: tuple[Option, ...] = field(default=())
    reads: bool = False  # has -o table|json|yaml


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown format '{unknown[0]}' (choose from {', '.join(FORMATS)})")
    return chosen


PROFILE = _option("--profile", required=True, metavar="NAME", help="a file of profiles/ (see 'osbuild profiles')")
_BUILD = (
    PROFILE,
    _option("--version", metavar="V", help="what the image calls itself (default: the project's version)"),
    _option(
        "--client-ca", metavar="FILE", help="PEM of the CA whose clients the node accepts from the first contact on"
    ),
)
_MIRROR = _option("--mirror", metavar="URL", help="Debian mirror (default: the host's own, from apt)")
_JOBS = _option("--jobs", type=int, default=2, metavar="N", help="steps that may run at once (default 2)")
_NAME = _option("name", metavar="NAME", help="name of the virtual machine")
_VM_NAME = _option("--name", default=None, metavar="N", help="name of the virtual machine (default: the profile's)")

COMMANDS = (
    Command(("profiles",), "List the profiles", "image:profiles", "osbuild profiles", reads=True),
    Command(
        ("image",),
        "Build an image",
        "image:image",
        "osbuild image --profile minimal --format raw,qcow2",
        (
            *_BUILD,
            _option("--output", metavar="DIR", help="where the artifacts go (default: build/<profile>)"),
            _option(
                "--format", type=_formats, default=("raw",), metavar="LIST", help="raw, qcow2 or both (default: raw)"
            ),
            _option("--shell-at", metavar="STEP", help="build what STEP needs and open a shell in its sandbox"),
            _JOBS,
            _MIRROR,
        ),
        reads=True,
    ),
    Command(
        ("plan",),
        "Say for each step whether it is cached, and if not, why",
        "image:plan",
        "osbuild plan --profile minimal",
        _BUILD,
        reads=True,
    ),
    Command(
        ("verify",),
        "Build twice from nothing and compare, byte by byte",
        "verify:verify",
        "osbuild verify --profile minimal",
        (*_BUILD, _option("--all", action="store_true", help="the kernel too"), _JOBS, _MIRROR),
        reads=True,
    ),
    Command(
        ("inspect",),
        "List every file of an image, the biggest first, with the package it came from",
        "inspect:inspect",
        "osbuild inspect build/minimal/basalt-minimal-0.1.0.raw",
        (_option("image", metavar="IMAGE", help="an image, or any artifact beside its files.json"),),
        reads=True,
    ),
    Command(
        ("kernel",),
        "Show a profile's kernel: options, sizes, hardening",
        "kernel:kernel",
        "osbuild kernel --profile minimal",
        (PROFILE, _MIRROR),
        reads=True,
    ),
    Command(
        ("lock",),
        "Refresh the lock files (--update, the default) or hold them against the archive (--check)",
        "lock:lock",
        "osbuild lock --check",
        (
            _option(
                "--check",
                action="store_true",
                help="change nothing; exit code 5 and the packages that moved when stale",
            ),
            _option("--update", action="store_true", help="resolve all sets anew"),
            _MIRROR,
        ),
        reads=True,
    ),
    Command(("cache", "du"), "Show what the store holds", "cache:usage", "osbuild cache du", reads=True),
    Command(
        ("cache", "gc"),
        "Delete what was not used for longest",
        "cache:collect",
        "osbuild cache gc --limit 4G",
        (_option("--limit", metavar="SIZE", help="keep at most this much (default: $OSBUILD_CACHE_LIMIT, or 24G)"),),
        reads=True,
    ),
    Command(
        ("boot",),
        "Boot an image in QEMU; returns when the node's API answers",
        "vm:boot",
        "osbuild boot --profile minimal --name n1 --detach",
        (
            *_BUILD,
            _option("--machine", default="uefi", metavar="M", help="a file of qemu/: uefi (default), direct, ..."),
            _VM_NAME,
            _option("--detach", action="store_true", help="do not show the console while waiting"),
            _option("--no-client-ca", action="store_true", help="give the node no CA: its API then refuses everyone"),
            _option(
                "--timeout", type=float, default=600.0, metavar="S", help="seconds to wait for the API (default 600)"
            ),
            _JOBS,
            _MIRROR,
        ),
        reads=True,
    ),
    Command(("list",), "List virtual machines", "vm:list_machines", "osbuild list", reads=True),
    Command(
        ("stop",),
        "Stop a virtual machine, and forget it unless --keep",
        "vm:stop",
        "osbuild stop n1",
        (_NAME, _option("--keep", action="store_true", help="keep its disk, to start it again")),
    ),
    Command(
        ("start",),
        "Start a stopped virtual machine again, from its disk",
        "vm:start",
        "osbuild start n1",
        (
            _NAME,
            _option(
                "--timeout", type=float, default=600.0, metavar="S", help="seconds to wait for the API (default 600)"
            ),
        ),
        reads=True,
    ),
    Command(
        ("console",),
        "Show a virtual machine's console, and follow it with -f",
        "vm:console",
        "osbuild console n1",
        (_NAME, _option("-f", "--follow", action="store_true", help="go on until it stops")),
    ),
)


def _run(entry: str) -> Callable[[Arguments], int]:
    module, _, function = entry.partition(":")

    def run(arguments: Arguments) -> int:
        code: int = getattr(import_module(f"osbuild.commands.{module}"), function)(arguments)
        return code

    return run


def build_parser() -> argparse.ArgumentParser:
    """The parser for :data:`COMMANDS`."""
    parser = argparse.ArgumentParser(
        prog="osbuild", description="Build Basalt images, and boot them in QEMU.", allow_abbrev=False
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "plain", "json", "none"),
        default="auto",
        help="how progress is shown on standard error",
    )
    top = parser.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        parent = top
        if len(command.words) > 1:
            group = command.words[0]
            if group not in groups:
                holder = top.add_parser(group, help=f"{group} commands", allow_abbrev=False)
                groups[group] = holder.add_subparsers(metavar="COMMAND", required=True)
            parent = groups[group]
        sub = parent.add_parser(
            command.words[-1],
            help=command.summary,
            description=command.summary + ".",
            epilog=f"Example: {command.example}",
            allow_abbrev=False,
        )
        for option in command.options:
            sub.add_argument(*option.flags, **option.settings)
        if command.reads:
            sub.add_argument(
                "-o",
                dest="output_format",
                choices=("table", "json", "yaml"),
                default="table",
                help="form of the answer",
            )
        sub.set_defaults(command=_run(command.entry), words=command.words)
    return parser


def report_error(error: BasaltError, *, as_json: bool) -> None:
    """Print *error* to standard error: what, why, and what to do."""
    if as_json:
        print(json.dumps(error.as_dict()), file=sys.stderr)
        return
    print(f"osbuild: error: {error.what}", file=sys.stderr)
    for line in error.why.splitlines():
        print(f"    {line}", file=sys.stderr)
    for line in error.remedy.splitlines():
        print(f"  -> {line}", file=sys.stderr)


def report_unexpected(error: Exception) -> None:
    """A bug of ours: one line for the user, the traceback in a file."""
    with tempfile.NamedTemporaryFile("w", prefix=f"osbuild-{os.getuid()}-", suffix=".log", delete=False) as stream:
        traceback.print_exception(error, file=stream)
    print(f"osbuild: internal error: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  -> This is a bug. Details: {stream.name}", file=sys.stderr)
