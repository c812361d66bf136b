"""Locks in small, for tests of what reads and follows them."""

from __future__ import annotations

import hashlib

from osbuild.lock.model import DebianLock, Package, PackageSet, Wheel, WheelLock, WheelSet

WHEELS = WheelLock(1, WheelSet("3.13", ["msgspec"]), {"msgspec": Wheel("0.19.0", "msgspec-0.19.0.whl", "ab" * 32)})


def package(name: str, version: str = "1.0-1", *, archive: str = "main") -> Package:
    """A package whose content is its name and version."""
    data = f"{name} {version}".encode()
    path = f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb"
    return Package(version, "amd64", archive, path, len(data), hashlib.sha256(data).hexdigest())


def debian_lock(*names: str) -> DebianLock:
    """A lock of *names*, all in the set "tools"."""
    chosen = names or ("bash", "tar", "libc6")
    return DebianLock(
        schema=1,
        epoch=1_750_000_000,
        suite="trixie",
        requested={"tools": PackageSet(["bash", "tar"]), "source": PackageSet(["linux-source-6.12"], depends=False)},
        sets={"tools": sorted(chosen), "source": []},
        packages={name: package(name) for name in sorted(chosen)},
    )
