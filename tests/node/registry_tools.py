"""The programs that make, sign, move and serve container images: the locked tree ``registry-tools``, run in its own sandbox.

They are trixie's, so they run inside of the tree, never on the host's libraries. They see one directory of the host, as ``/work``, and
share its network: a registry on the host's 127.0.0.1 is 10.0.2.2 to a guest with QEMU's user-mode network.

Nothing here knows pytest: benchmarks may use it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.commands.image import fetch_missing
from osbuild.graph import build
from osbuild.lock.model import load_debian
from osbuild.progress import Progress
from osbuild.sandbox import Bind, Sandbox
from osbuild.steps.trees import tree_step
from osbuild.store import Store

SET = "registry-tools"
WORK = "/work"
_END_S = 10.0


def tree(progress: Progress | None = None, mirror: str | None = None) -> Path:
    """The tree of the tools in the store; what is missing is downloaded.

    :raises StaleLockError: the archive no longer has what the lock names.
    """
    store, debian, shown = Store(), load_debian(), progress or Progress()
    step = tree_step(debian, SET)
    fetch_missing(store, debian, [step], shown, mirror)
    build(store, [step], shown)
    return store.path(step.key)


@dataclass(frozen=True)
class Tools:
    """The tree, and the directory that holds all that its programs read and write."""

    tree: Path
    directory: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def inside(self, path: Path) -> str:
        """*path* as the programs see it.

        :raises ValueError: it does not lie in the directory.
        """
        return f"{WORK}/{path.relative_to(self.directory)}"

    def fresh(self, stem: str, suffix: str = "") -> Path:
        """A path in the directory that nobody else has."""
        return self.directory / f"{stem}-{next(self._numbers)}{suffix}"

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> str:
        """Run one of the programs to its end; what it prints.

        :raises CommandError: it ended with anything but 0.
        """
        log = self.fresh(argv[0], ".log")
        return self._sandbox().run(argv, log=log, env=env, cwd=WORK)

    @contextlib.contextmanager
    def started(self, *argv: str, log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """One of the programs while the block runs; what it prints is appended to *log*."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                self._sandbox().command(argv, env=env, cwd=WORK),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            yield process
        finally:
            _end(process)

    def _sandbox(self) -> Sandbox:
        scratch = self.directory / "tmp"
        scratch.mkdir(exist_ok=True)
        # skopeo takes /var/tmp for what is large, whatever TMPDIR says.
        binds = (Bind(self.directory, WORK, writable=True), Bind(scratch, "/var/tmp", writable=True))
        return Sandbox(self.tree, binds, network=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started, and wait until it is gone."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return
