"""What a virtual machine finds of a configuration beside its disk: fw_cfg entries, SMBIOS OEM strings, configuration drives.

Everything lies as files in the machine's directory, so that it comes back with ``osbuild start``, and no word of it shows on QEMU's
command line, which every user of the host can read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from basalt.errors import UsageError
from osbuild.sandbox import Bind, Sandbox

VM = "/vm"  # where the sandbox shows the machine's directory
# QEMU itself asks users to keep to opt/, and a name of domain or project below it (docs/specs/fw_cfg.rst).
_FW_CFG_NAME = re.compile(r"opt/[A-Za-z0-9._/-]{1,50}\Z")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,11}\Z")  # FAT's volume labels are that long
_DRIVE_BYTES = 8 * 1024 * 1024


class Handover(msgspec.Struct, frozen=True):
    """What is handed over, as names of files in the machine's directory.

    :param fw_cfg: fw_cfg entry → file.
    :param oem_strings: a file for each SMBIOS type 11 string.
    :param drives: images of drives.
    """

    fw_cfg: dict[str, str] = {}
    oem_strings: tuple[str, ...] = ()
    drives: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The words of QEMU's command line."""
        words: list[str] = []
        for entry, file in self.fw_cfg.items():
            words += ["-fw_cfg", f"name={entry},file={VM}/{file}"]
        if self.oem_strings:
            words += ["-smbios", ",".join(["type=11", *(f"path={VM}/{file}" for file in self.oem_strings)])]
        for number, file in enumerate(self.drives):
            words += ["-blockdev", f"driver=file,node-name=config{number},read-only=on,filename={VM}/{file}"]
            words += ["-device", f"virtio-blk-pci,drive=config{number}"]
        return words


NOTHING = Handover()


class Wanted(msgspec.Struct, frozen=True):
    """What the user asked for: fw_cfg entry and file, the file of OEM strings, label and directory (or image) of drives."""

    fw_cfg: tuple[tuple[str, Path], ...] = ()
    oem_strings: Path | None = None
    drives: tuple[tuple[str, Path], ...] = ()


def wanted(fw_cfg: Iterable[str], oem_strings: str | None, drives: Iterable[str]) -> Wanted:
    """Read the options of ``osbuild boot``.

    :raises UsageError: one is not ``NAME=FILE``, its name is none, or its file is not there.
    """
    strings = Path(oem_strings) if oem_strings else None
    if strings and not strings.is_file():
        raise UsageError(f"there is no file {strings}", remedy="--oem-strings takes a file with one string a line")
    return Wanted(
        tuple(_pair("--fw-cfg", word, _FW_CFG_NAME, "opt/...: letters, digits and . _ / -") for word in fw_cfg),
        strings,
        tuple(_pair("--config-drive", word, _LABEL, "at most 11 letters, digits, _ and -") for word in drives),
    )


def _pair(option: str, word: str, pattern: re.Pattern[str], allowed: str) -> tuple[str, Path]:
    name, separator, file = word.partition("=")
    if not separator or not pattern.match(name):
        raise UsageError(f"{option} {word}: '{name}' is no name", why=f"it is NAME=FILE, the name {allowed}")
    if not Path(file).exists():
        raise UsageError(f"{option} {word}: there is no {file}")
    return name, Path(file)


def prepare(asked: Wanted, directory: Path, image_tools: Path | None) -> Handover:
    """Put what was asked for into the machine's *directory*.

    :param image_tools: the tree with ``mkfs.fat`` and ``mcopy``; needed where a drive is made from a directory.
    """
    fw_cfg = {}
    for number, (entry, source) in enumerate(asked.fw_cfg):
        shutil.copyfile(source, directory / f"fw-cfg-{number}")
        fw_cfg[entry] = f"fw-cfg-{number}"
    strings: list[str] = []
    for line in asked.oem_strings.read_text().splitlines() if asked.oem_strings else ():
        if line.strip():
            strings.append(f"oem-string-{len(strings)}")
            (directory / strings[-1]).write_text(line.strip())
    drives = []
    for number, (label, source) in enumerate(asked.drives):
        drives.append(f"config-drive-{number}.img")
        if source.is_dir():
            _make_drive(label, source, directory, drives[-1], image_tools)
        else:
            shutil.copyfile(source, directory / drives[-1])
    return Handover(fw_cfg, tuple(strings), tuple(drives))


def _make_drive(label: str, source: Path, directory: Path, name: str, image_tools: Path | None) -> None:
    """A FAT file system with the content of *source*."""
    if image_tools is None:
        raise UsageError("a drive cannot be made from a directory without the image tools")
    with (directory / name).open("wb") as stream:
        stream.truncate(_DRIVE_BYTES)
    sandbox = Sandbox(image_tools, (Bind(directory, VM, writable=True), Bind(source.resolve(), "/in")))
    log = directory / "qemu.log"
    sandbox.run(["mkfs.fat", "-n", label, f"{VM}/{name}"], log=log, cwd=VM)
    content = sorted(path.name for path in source.iterdir())
    if content:
        copied = [f"/in/{entry}" for entry in content]
        sandbox.run(["mcopy", "-s", "-i", f"{VM}/{name}", *copied, "::"], log=log, cwd=VM)
