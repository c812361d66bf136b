"""Making and fetching what ``locks/wheels.json`` names, by pip and from wherever pip is configured to look."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from basalt.errors import BasaltError
from osbuild.lock.blobs import blob, verified
from osbuild.lock.model import Wanted, Wheel, WheelLock, WheelSet

# Debian 13 has glibc 2.41; pip matches platform tags exactly, so every older one that can run there is named.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(41, 4, -1)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


def _target(wanted: WheelSet) -> list[str]:
    platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
    return ["--only-binary=:all:", "--python-version", wanted.python, "--implementation", "cp", *platforms]


def _pip(*argv: str) -> str:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BasaltError(
            f"pip {argv[0]} failed", why=done.stderr.strip()[-2000:], remedy="Check the network and pip's configuration"
        )
    return done.stdout


def normalised(name: str) -> str:
    """A project name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def make(wanted: Wanted) -> WheelLock:
    """Resolve the wanted wheels and all they need, for the node's Python and not for the one that runs this."""
    with tempfile.TemporaryDirectory() as empty:
        report = json.loads(
            _pip(
                "install",
                "--dry-run",
                "--report",
                "-",
                "--target",
                empty,
                *_target(wanted.wheels),
                *wanted.wheels.packages,
            )
        )
    wheels = {}
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        filename = item["download_info"]["url"].rsplit("/", 1)[1]
        wheels[normalised(name)] = Wheel(version, filename, item["download_info"]["archive_info"]["hashes"]["sha256"])
    return WheelLock(schema=1, requested=wanted.wheels, wheels=dict(sorted(wheels.items())))


def moved(old: WheelLock, new: WheelLock) -> list[str]:
    """What differs between two locks, a line each."""
    before = {name: wheel.version for name, wheel in old.wheels.items()}
    after = {name: wheel.version for name, wheel in new.wheels.items()}
    names = sorted(before.keys() | after.keys())
    return [
        f"{name} {before.get(name, '-')} -> {after.get(name, '-')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def fetch(cache: Path, lock: WheelLock) -> None:
    """Bring all wheels into the download cache, verified against the lock.

    :raises BasaltError: when one cannot be had, or is not what the lock says.
    """
    blob(cache, "x").parent.mkdir(parents=True, exist_ok=True)
    missing = {name: wheel for name, wheel in lock.wheels.items() if not blob(cache, wheel.sha256).is_file()}
    if not missing:
        return
    with tempfile.TemporaryDirectory(dir=blob(cache, "x").parent) as directory:
        requirements = Path(directory) / "requirements.txt"
        lines = [f"{name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for name, wheel in missing.items()]
        requirements.write_text("".join(lines))
        target = ["--dest", directory, "--no-deps", "--require-hashes", "--requirement", str(requirements)]
        try:
            _pip("download", *target, *_target(lock.requested))
        except BasaltError as error:
            raise BasaltError(
                f"cannot fetch {len(missing)} wheels: {', '.join(sorted(missing))}", why=error.why, remedy=error.remedy
            ) from error
        for name, wheel in missing.items():
            path = Path(directory) / wheel.filename
            if not verified(path, wheel.sha256):
                raise BasaltError(
                    f"the wheel of {name} is not what the lock says", why=wheel.filename, remedy="Check pip's index"
                )
            path.rename(blob(cache, wheel.sha256))
