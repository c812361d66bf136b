"""Profiles: what an image is made of, declared once.

``profiles/<name>.toml`` is read strictly: an unknown key or a wrong type is an error that names the file, the line and the nearest
valid name. ``docs/reference/profiles.md`` is generated from the types below.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
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
    :param cold: files that are read seldom, by path (`*` matches within a directory); they are compressed harder.
    :param cold_compression: algorithm and level for these.
    :param cold_cluster_bytes: size of their clusters; at least *cluster_bytes*.
    """

    compression: str
    cluster_bytes: int
    cold: list[str]
    cold_compression: str
    cold_cluster_bytes: int


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
    :param links: symbolic links, targets by path; the alternatives that packages' maintainer scripts would choose.
    :param authorities: certificates of public authorities, joined into `etc/ssl/certs/ca-certificates.crt`: globs by package name.
    :param overlay: a directory, relative to the profile, whose files are added to the root as they are.
    :param extends: another profile to start from: tables are merged into that one's, values replace.
    """

    description: str
    kernel: Kernel
    disk: Disk
    root: Root
    boot: Boot
    packages: dict[str, list[str]]
    python: Python
    links: dict[str, str] = {}
    authorities: dict[str, list[str]] = {}
    overlay: str = ""
    extends: str = ""


def available(directory: Path = paths.PROFILES) -> list[str]:
    """Names of all profiles, sorted."""
    return sorted(path.stem for path in directory.glob("*.toml"))


@dataclass(frozen=True)
class Named:
    """A profile that was read: its name, its settings, and the directory of files to add, if it has one."""

    name: str
    settings: Profile
    overlay: Path | None


def load(name: str, directory: Path = paths.PROFILES) -> Named:
    """Read profile *name*, or the file *name* when it ends in ``.toml``.

    A profile with ``extends = "other"`` starts from profile *other*: its tables are merged into that one's, its values replace.

    :raises UsageError: when there is no such profile or it is wrong; with file, line and the nearest valid name.
    """
    path = _find(name, directory)
    own = _read(path)
    sources, tables = [own], own.tables
    if own.extends:
        below = _read(_find(own.extends, directory))
        if below.extends:
            raise UsageError(
                f"{own.shown}: extends '{own.extends}', which extends another",
                remedy="Extend a profile that stands alone",
            )
        sources, tables = [own, below], _merge(below.tables, own.tables)
    try:
        settings = msgspec.convert(tables, Profile)
    except msgspec.ValidationError as error:
        raise _wrong_value(error, sources) from error
    overlay = (path.parent / settings.overlay).resolve() if settings.overlay else None
    if overlay and not overlay.is_dir():
        raise UsageError(
            f"{own.shown}:{_line_of(own.text, ('overlay',))}: there is no directory {settings.overlay}",
            remedy="It is looked for beside the profile",
        )
    return Named(path.stem, settings, overlay)


@dataclass(frozen=True)
class _Source:
    """A profile file as it was read. *shown* is its path as errors show it, *extends* the profile it starts from, or ""."""

    tables: dict[str, Any]
    text: str
    shown: Path
    extends: str


def _wrong_value(error: msgspec.ValidationError, sources: list[_Source]) -> UsageError:
    """Say where the value is that *error* is about: in the first of *sources* that sets it."""
    where = re.search(r"`\$\.?([^`]*)`", str(error))
    key = tuple(re.sub(r"\[.*?\]", "", where[1]).split(".")) if where else ()
    why, remedy = str(error).split(" - at")[0], "See docs/reference/profiles.md"
    if not key:
        return UsageError(f"{sources[0].shown}: incomplete", why=why, remedy=remedy)
    source = next((source for source in sources if _sets(source.tables, key)), sources[0])
    place = f"{source.shown}:{_line_of(source.text, key)}"
    return UsageError(f"{place}: wrong value for '{'.'.join(key)}'", why=why, remedy=remedy)


def _sets(tables: Any, key: tuple[str, ...]) -> bool:
    return not key or (isinstance(tables, dict) and key[0] in tables and _sets(tables[key[0]], key[1:]))


def _find(name: str, directory: Path) -> Path:
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(
                f"there is no profile {name}", remedy=f"Give a file, or one of: {', '.join(available(directory))}"
            )
        return Path(name).absolute()
    known = available(directory)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1)
        guess = f"Did you mean '{nearest[0]}'? " if nearest else ""
        raise UsageError(f"there is no profile '{name}'", remedy=f"{guess}Profiles: {', '.join(known)}")
    return directory / f"{name}.toml"


def _read(path: Path) -> _Source:
    """Read a profile file, and refuse keys that do not exist."""
    shown = path.relative_to(paths.PROJECT) if path.is_relative_to(paths.PROJECT) else path
    try:
        text = path.read_text()
        tables = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read {shown}", why=error.strerror or "") from error
    except ValueError as error:  # of TOML, and of UTF-8
        raise UsageError(f"{shown} is not TOML", why=str(error)) from error
    extends = tables.pop("extends", "")
    if not isinstance(extends, str):
        raise UsageError(f"{shown}:{_line_of(text, ('extends',))}: 'extends' takes the name of one profile")
    unknown = _unknown_key(tables, Profile, ())
    if unknown:
        key, valid = unknown
        nearest = difflib.get_close_matches(key[-1], valid, 1)
        guess = f"Did you mean '{nearest[0]}'? " if nearest else ""
        raise UsageError(
            f"{shown}:{_line_of(text, key)}: unknown key '{'.'.join(key)}'",
            remedy=f"{guess}Valid here: {', '.join(valid)}",
        )
    return _Source(tables, text, shown, extends)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """*base* with the values of *over*, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


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
