"""Profiles: what an image is made of, declared once.

``profiles/<name>.toml`` is read strictly: an unknown key or a wrong type is an error that names the file, the line and the nearest
valid name. ``docs/reference/profiles.md`` is generated from the types below.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from basalt.errors import UsageError
from osbuild import paths


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The kernel.

    :param fragments: files of ``kernel-config/`` without ``.config``, in order.
    """

    fragments: list[str]


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the partitions that the image brings, in MiB. STATE and DATA are made on the node.

    :param root_slot_mib: each of root-A and root-B.
    :param verity_slot_mib: each of verity-A and verity-B; a hash tree takes 0.8 % of its root.
    :param esp_mib: the EFI system partition, with room for kernels of years to come.
    """

    root_slot_mib: int
    verity_slot_mib: int
    esp_mib: int = 1024


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The read-only root (options of mkfs.erofs).

    :param compression: algorithm and level, as ``-z`` takes them.
    :param cluster_bytes: size of a physical cluster, ``-C``.
    :param fragments: pack tails of files together (smaller, slightly slower to read).
    """

    compression: str
    cluster_bytes: int = 65536
    fragments: bool = True


class Boot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The kernel command line beside what verity and the root need.

    :param cmdline: words, in order.
    """

    cmdline: list[str]


class Python(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of Python is left out; ``*`` matches within a directory, ``**`` across.

    :param stdlib_exclude: below the standard library.
    :param wheels_exclude: below dist-packages.
    """

    stdlib_exclude: list[str]
    wheels_exclude: list[str]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One profile.

    :param description: one line, for ``osbuild profiles``.
    :param packages: files picked of Debian packages: globs by package name. Libraries follow by themselves.
    """

    description: str
    kernel: Kernel
    disk: Disk
    root: Root
    boot: Boot
    packages: dict[str, list[str]]
    python: Python


def available(directory: Path = paths.PROFILES) -> list[str]:
    """Names of all profiles, sorted."""
    return sorted(path.stem for path in directory.glob("*.toml"))


def load(name: str, directory: Path = paths.PROFILES) -> Profile:
    """Read profile *name*.

    :raises UsageError: when there is no such profile or it is wrong; with file, line and the nearest valid name.
    """
    path = directory / f"{name}.toml"
    known = available(directory)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1)
        guess = f"Did you mean '{nearest[0]}'? " if nearest else ""
        raise UsageError(f"there is no profile '{name}'", remedy=f"{guess}Profiles: {', '.join(known)}")
    text = path.read_text()
    shown = path.relative_to(paths.PROJECT) if path.is_relative_to(paths.PROJECT) else path
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown} is not TOML", why=str(error)) from error
    unknown = _unknown_key(tables, Profile, ())
    if unknown:
        key, valid = unknown
        nearest = difflib.get_close_matches(key[-1], valid, 1)
        guess = f"Did you mean '{nearest[0]}'? " if nearest else ""
        raise UsageError(
            f"{shown}:{_line_of(text, key)}: unknown key '{'.'.join(key)}'",
            remedy=f"{guess}Valid here: {', '.join(valid)}",
        )
    try:
        return msgspec.convert(tables, Profile)
    except msgspec.ValidationError as error:
        where = re.search(r"`\$\.?([^`]*)`", str(error))
        key_path = tuple(re.sub(r"\[.*?\]", "", where[1]).split(".")) if where else ()
        reason = str(error).split(" - at")[0]
        raise UsageError(
            f"{shown}:{_line_of(text, key_path)}: wrong value for '{'.'.join(key_path)}'",
            why=reason,
            remedy="See docs/reference/profiles.md",
        ) from error


def _unknown_key(tables: Any, kind: Any, prefix: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]] | None:
    """The first key of *tables* that struct *kind* does not have, with those it has."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(tables, dict)):
        return None
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in tables.items():
        if key not in fields:
            return (*prefix, key), sorted(fields)
        below = _unknown_key(value, fields[key], (*prefix, key))
        if below:
            return below
    return None


def _line_of(text: str, key: tuple[str, ...]) -> int:
    """The line that sets *key* (tomllib keeps no positions); that of its table, or 1, when it is not found."""
    table: tuple[str, ...] = ()
    found = 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = tuple(part.strip().strip('"') for part in header[1].split("."))
            if table == key[: len(table)]:
                found = number
            if table == key:
                return number
        elif (setting := re.match(r'\s*("?)([\w.-]+)\1\s*=', line)) and (*table, setting[2]) == key[: len(table) + 1]:
            return number
    return found
