"""The commands of osbuild as one table, from which the parser, the help and the reference page are made."""

from __future__ import annotations

import argparse

from basalt.commandline import Command, Program, option, seconds
from osbuild.pipeline import FORMATS
from osbuild.progress import STYLES


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 256")
    return int(text)


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown format '{unknown[0]}' (choose from {', '.join(FORMATS)})")
    return chosen


PROFILE = option("--profile", required=True, metavar="NAME", help="a file of profiles/ (see 'osbuild profiles')")
_BUILD = (
    PROFILE,
    option("--version", metavar="V", help="what the image calls itself (default: the project's version)"),
    option(
        "--client-ca", metavar="FILE", help="PEM of the CA whose clients the node accepts from the first contact on"
    ),
    option("--config", metavar="FILE", help="configuration documents that a node without a configuration takes up"),
)
_MIRROR = option("--mirror", metavar="URL", help="Debian mirror (default: the host's own, from apt)")
_JOBS = option("--jobs", type=_count, default=2, metavar="N", help="steps that may run at once (default 2)")
_NAME = option("name", metavar="NAME", help="name of the virtual machine")
_VM_NAME = option("--name", default=None, metavar="N", help="name of the virtual machine (default: the profile's)")

COMMANDS = (
    Command(("profiles",), "List the profiles", "image:profiles", "osbuild profiles", reads=True),
    Command(
        ("image",),
        "Build an image",
        "image:image",
        "osbuild image --profile minimal --format raw,qcow2",
        (
            *_BUILD,
            option("--output", metavar="DIR", help="where the artifacts go (default: build/<profile>)"),
            option(
                "--format", type=_formats, default=("raw",), metavar="LIST", help="raw, qcow2 or both (default: raw)"
            ),
            option("--shell-at", metavar="STEP", help="build what STEP needs and open a shell in its sandbox"),
            _JOBS,
            _MIRROR,
        ),
        reads=True,
        shared=True,
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
        (*_BUILD, option("--all", action="store_true", help="the kernel too"), _JOBS, _MIRROR),
        reads=True,
        shared=True,
    ),
    Command(
        ("inspect",),
        "List every file of an image, the biggest first, with the package it came from",
        "inspect:inspect",
        "osbuild inspect build/minimal/basalt-minimal-0.1.0.raw",
        (option("image", metavar="IMAGE", help="an image, or any artifact beside its files.json"),),
        reads=True,
    ),
    Command(
        ("kernel",),
        "Show a profile's kernel: options, sizes, hardening",
        "kernel:kernel",
        "osbuild kernel --profile minimal",
        (PROFILE, _MIRROR),
        reads=True,
        shared=True,
    ),
    Command(
        ("lock",),
        "Refresh the lock files (--update, the default) or hold them against the archive (--check)",
        "lock:lock",
        "osbuild lock --check",
        (
            option(
                "--check",
                action="store_true",
                help="change nothing; exit code 5 and the packages that moved when stale",
            ),
            option("--update", action="store_true", help="resolve all sets anew"),
            _MIRROR,
        ),
        reads=True,
        shared=True,
    ),
    Command(("cache", "du"), "Show what the store holds", "cache:usage", "osbuild cache du", reads=True),
    Command(
        ("cache", "gc"),
        "Delete what was not used for longest",
        "cache:collect",
        "osbuild cache gc --limit 4G",
        (option("--limit", metavar="SIZE", help="keep at most this much (default: $OSBUILD_CACHE_LIMIT, or 24G)"),),
        reads=True,
    ),
    Command(
        ("boot",),
        "Boot an image in QEMU; returns when the node's API answers",
        "vm:boot",
        "osbuild boot --profile minimal --name n1 --detach",
        (
            *_BUILD,
            option("--machine", default="uefi", metavar="M", help="a file of qemu/: uefi (default), direct, ..."),
            _VM_NAME,
            option("--detach", action="store_true", help="do not show the console while waiting"),
            option("--no-client-ca", action="store_true", help="give the node no CA: its API then refuses everyone"),
            option(
                "--fw-cfg",
                action="append",
                default=[],
                metavar="NAME=FILE",
                help="hand FILE over as this fw_cfg entry, such as opt/basalt/config",
            ),
            option("--oem-strings", metavar="FILE", help="SMBIOS OEM strings, one a line"),
            option(
                "--config-drive",
                action="append",
                default=[],
                metavar="LABEL=DIR",
                help="a drive labelled cidata or config-2 with the files of DIR; an image in place of DIR is taken as it is",
            ),
            option(
                "--cmdline",
                default="",
                metavar="WORDS",
                help="further words for the kernel's command line; only for machines without firmware",
            ),
            option(
                "--timeout", type=seconds, default=600.0, metavar="S", help="seconds to wait for the API (default 600)"
            ),
            _JOBS,
            _MIRROR,
        ),
        reads=True,
        shared=True,
    ),
    Command(("list",), "List virtual machines", "vm:list_machines", "osbuild list", reads=True),
    Command(
        ("stop",),
        "Stop a virtual machine, and forget it unless --keep",
        "vm:stop",
        "osbuild stop n1",
        (_NAME, option("--keep", action="store_true", help="keep its disk, to start it again")),
    ),
    Command(
        ("start",),
        "Start a stopped virtual machine again, from its disk",
        "vm:start",
        "osbuild start n1",
        (
            _NAME,
            option(
                "--timeout", type=seconds, default=600.0, metavar="S", help="seconds to wait for the API (default 600)"
            ),
        ),
        reads=True,
        shared=True,
    ),
    Command(
        ("console",),
        "Show a virtual machine's console, and follow it with -f",
        "vm:console",
        "osbuild console n1",
        (_NAME, option("-f", "--follow", action="store_true", help="go on until it stops")),
    ),
)

PROGRAM = Program(
    name="osbuild",
    summary="Build Basalt images, and boot them in QEMU.",
    package="osbuild.commands",
    commands=COMMANDS,
    groups={"cache": "Look after the store of finished steps"},
    shared_title="progress",
    shared=(
        option(
            "--progress",
            choices=STYLES,
            metavar="STYLE",
            help=f"how progress is shown on standard error: {', '.join(STYLES)} (default: auto)",
        ),
    ),
    interrupted="interrupted; finished steps are kept and the next run goes on from them",
)
