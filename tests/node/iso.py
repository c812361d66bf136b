"""A CD image with a few files, as small as ISO 9660 (ECMA-119) allows: no tool of the project's makes one."""

from __future__ import annotations

import struct
from collections.abc import Mapping

_SECTOR = 2048
_PVD, _END, _PATHS_L, _PATHS_M, _ROOT, _FILES = 16, 17, 18, 19, 20, 21
_DATE = bytes([126, 1, 1, 0, 0, 0, 0])


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The image; names keep what the standard's letters lack (``-``), as everybody's tools write them."""
    records = [_record(b"\0", _ROOT, _SECTOR, directory=True), _record(b"\1", _ROOT, _SECTOR, directory=True)]
    body, sector = b"", _FILES
    for name, data in sorted(files.items()):
        records.append(_record(f"{name.upper()};1".encode(), sector, len(data)))
        padded = data + bytes(-len(data) % _SECTOR)
        body += padded
        sector += len(padded) // _SECTOR
    root = records[0]
    path_table = bytes([1, 0]) + struct.pack("<IH", _ROOT, 1) + b"\0\0"
    volume = b"\1CD001\1\0" + b" " * 32 + label.encode().ljust(32) + bytes(8) + _both(sector, 4) + bytes(32)
    volume += _both(1, 2) + _both(1, 2) + _both(_SECTOR, 2) + _both(len(path_table), 4)
    volume += struct.pack("<II", _PATHS_L, 0) + struct.pack(">II", _PATHS_M, 0) + root
    volume += b" " * (813 - len(volume)) + (b"0" * 16 + b"\0") * 4 + b"\1\0"
    sectors = [bytes(_SECTOR)] * 16
    sectors += [
        volume,
        b"\xffCD001\1",
        path_table,
        bytes([1, 0]) + struct.pack(">IH", _ROOT, 1) + b"\0\0",
        b"".join(records),
    ]
    return b"".join(sector.ljust(_SECTOR, b"\0") for sector in sectors) + body


def _both(value: int, size: int) -> bytes:
    """A number in both byte orders, one after the other."""
    return value.to_bytes(size, "little") + value.to_bytes(size, "big")


def _record(name: bytes, sector: int, size: int, *, directory: bool = False) -> bytes:
    fixed = _both(sector, 4) + _both(size, 4) + _DATE + bytes([2 if directory else 0, 0, 0]) + _both(1, 2)
    record = b"\0" + fixed + bytes([len(name)]) + name
    record += b"\0" * ((len(record) + 1) % 2)
    return bytes([len(record) + 1]) + record
