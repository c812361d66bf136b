"""How long ``osbuild image`` takes when nothing, or one line of machined, has changed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from basalt.errors import BasaltError
from benchmarks.bench import PROFILE, Bench, command, failure
from benchmarks.figures import Figure, Goal, median
from osbuild import paths

# A module of the kind that is edited every day: one group of RPCs.
EDITED = "machined/api/system.py"
_NOT_COPIED = (".git", ".venv", "build", "__pycache__", "*.egg-info", ".*_cache")


def measure(bench: Bench) -> Iterator[Figure]:
    """Both on a copy of the checkout, with the store that the image at hand lies in."""
    bench.ensure_image()
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as temporary:
        checkout = Path(temporary) / "checkout"
        shutil.copytree(paths.PROJECT, checkout, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        _image(checkout)  # bytecode of the copy, and its artifacts handed out
        unchanged = [_image(checkout) for _ in range(bench.repeat)]
        yield Figure(
            "image, nothing changed",
            median(unchanged),
            "s",
            f"wall time of the whole command, median of {len(unchanged)}",
            Goal(1),
        )
        changed = []
        roots = {bench.image["root_hash"]}
        for _ in range(bench.repeat):
            edit(checkout / EDITED)
            changed.append(_image(checkout, roots))
        yield Figure(
            "image, one line changed",
            median(changed),
            "s",
            f"wall time after a line more in {EDITED}, median of {len(changed)}",
            Goal(15),
        )


def edit(source: Path) -> None:
    """Add a line that was never built before; a comment would not reach the image."""
    with source.open("a", encoding="utf-8") as stream:
        stream.write(f'\nMARK = "{secrets.token_hex(8)}"\n')


def _image(checkout: Path, old_roots: set[str] | None = None) -> float:
    """Seconds of ``osbuild image`` in *checkout*, by the code of *checkout*.

    :param old_roots: root hashes that the image must not have, where a change is to reach it; the new one is added.
    :raises BasaltError: the build failed, or did not build what it was to build.
    """
    words = command(
        "--progress", "none", "image", "--profile", PROFILE, "--output", str(checkout / "build"), "-o", "json"
    )
    environment = {name: value for name, value in os.environ.items() if name != "BASALT_PROJECT"}
    began = time.monotonic()
    done = subprocess.run(
        words,
        cwd=checkout,
        env=environment | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise failure("image", done.stderr)
    root_hash = json.loads(done.stdout)["root_hash"]
    if old_roots is not None:
        if root_hash in old_roots:
            raise BasaltError(
                f"a line more in {EDITED} did not reach the image", why=f"its root hash is {root_hash} as before"
            )
        old_roots.add(root_hash)
    return seconds
