"""The content-addressed store: outputs of build steps under the key that made them.

Layout (``v1`` changes when this layout does; an older layout is left to ``osbuild cache gc``)::

    <cache>/store/v1/
      objects/<key>/        output of a step; complete once the name exists, never changed after
      meta/<key>.json       step name, key components, size; its mtime is when the object was last used
      work/<key>.XXXXXX/    a step in progress: out/ becomes the object, scratch/ is thrown away
      locks/<key>.lock      flock: one builder per key; the others wait and find the object
      logs/<name>-<key>.log everything the step's programs printed
      latest/<name>.json    the components of the last build of a step, to say what changed
      users.lock            flock: shared by builders, exclusive for the collector
    <cache>/downloads/sha256/<digest>
    <cache>/ccache/

An object is published by fsync and rename(2), so a reader sees all of it or nothing, and a builder that dies leaves only a
``work`` directory, which the next builder sweeps away (its flock is free then).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from basalt.errors import BasaltError, UsageError
from basalt.files import sync_directory, write_atomic
from osbuild import paths

DEFAULT_LIMIT_BYTES = 24 * 2**30
_LOCK_POLL_S = 0.1
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Bytes of "24G", "512M", "1000". Binary units, as in ``du -h``.

    :raises UsageError: when *text* is no size.
    """
    number, unit = text.strip().upper().removesuffix("IB").removesuffix("B"), ""
    if number[-1:] in _UNITS and number:
        number, unit = number[:-1], number[-1]
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise UsageError(f"'{text}' is not a size", remedy="Give bytes, or a number with K, M, G or T: 24G")
    return size


def tree_size(directory: Path) -> int:
    """Bytes that *directory* takes on disk (blocks, so that a sparse image counts what it holds)."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(root) / name).lstat().st_blocks * 512
    return total


@dataclass(frozen=True)
class Entry:
    """One object as ``osbuild cache du`` shows it. ``used`` is a POSIX time stamp, ``size_bytes`` disk usage."""

    key: str
    name: str
    size_bytes: int
    used: float


@dataclass(frozen=True)
class Workspace:
    """A step in progress. ``out`` becomes the object; ``scratch`` is deleted with it."""

    root: Path
    out: Path
    scratch: Path


class Store:
    """See the module's docstring for the layout and its guarantees."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or paths.cache_directory()
        self.root = self.cache / "store" / "v1"
        try:
            for name in ("objects", "meta", "work", "locks", "logs", "latest"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BasaltError(
                f"cannot create the store {self.root}",
                why=error.strerror or "",
                remedy="Set OSBUILD_CACHE to a writable directory",
            ) from error

    @property
    def limit_bytes(self) -> int:
        """The size the store is kept under: ``$OSBUILD_CACHE_LIMIT``, else 24 GiB."""
        return parse_size(os.environ.get("OSBUILD_CACHE_LIMIT") or str(DEFAULT_LIMIT_BYTES))

    def path(self, key: str) -> Path:
        """Where the object of *key* is, or would be."""
        return self.root / "objects" / key

    def log_path(self, name: str, key: str) -> Path:
        """Where the output of the programs of step *name* goes."""
        return self.root / "logs" / f"{name}-{key[:16]}.log"

    def has(self, key: str) -> bool:
        """True when the object is complete. Counts as a use."""
        if not self.path(key).is_dir():
            return False
        with contextlib.suppress(OSError):
            os.utime(self.root / "meta" / f"{key}.json")
        return True

    def latest(self, name: str) -> dict[str, str]:
        """Components of the key under which step *name* was last built here; empty when it never was."""
        with contextlib.suppress(OSError, ValueError):
            loaded: dict[str, str] = json.loads((self.root / "latest" / f"{name}.json").read_text())
            return loaded
        return {}

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Hold off the collector while objects are read."""
        with _flock(self.root / "users.lock", fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def building(
        self, key: str, *, cancelled: threading.Event | None = None, waiting: Callable[[], None] | None = None
    ) -> Iterator[bool]:
        """Be the only builder of *key*; yields False when another one has meanwhile made it.

        :param cancelled: ends the wait for another builder.
        :param waiting: called once before such a wait.
        :raises BasaltError: when the wait was ended.
        """
        lock = self.root / "locks" / f"{key}.lock"
        cancelled = cancelled or threading.Event()
        with contextlib.ExitStack() as held:
            for attempt in itertools.count():
                try:
                    held.enter_context(_flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
                    break
                except BlockingIOError:
                    if waiting and attempt == 0:
                        waiting()
                # flock(2) knows no time limit, and a thread in it cannot be interrupted.
                if cancelled.wait(_LOCK_POLL_S):
                    raise BasaltError("cancelled while another build was waited for")
            yield not self.has(key)

    def workspace(self, key: str) -> Workspace:
        """A fresh directory for building *key*. Call with :meth:`building` held: leftovers of dead builders are removed."""
        for stale in (self.root / "work").glob(f"{key}.*"):
            remove_tree(stale)
        root = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.root / "work"))
        # Sandboxed programs may run under another uid in a user namespace; 0700 of mkdtemp would hide the tree from them.
        root.chmod(0o755)
        work = Workspace(root, root / "out", root / "scratch")
        work.out.mkdir()
        work.scratch.mkdir()
        return work

    def publish(self, key: str, name: str, work: Workspace, components: dict[str, str]) -> Path:
        """Make ``work.out`` the object of *key*. After this returns, the object survives a power cut."""
        _sync_tree(work.out)
        meta = {"name": name, "components": components, "size_bytes": tree_size(work.out)}
        write_atomic(self.root / "meta" / f"{key}.json", json.dumps(meta, sort_keys=True).encode())
        target = self.path(key)
        work.out.rename(target)
        sync_directory(target.parent)
        write_atomic(self.root / "latest" / f"{name}.json", json.dumps(components, sort_keys=True).encode())
        remove_tree(work.root)
        return target

    def discard(self, work: Workspace) -> None:
        """Forget a step that did not finish."""
        remove_tree(work.root)

    def entries(self) -> list[Entry]:
        """Every object, least recently used first."""
        found = []
        for directory in (self.root / "objects").iterdir():
            meta_path = self.root / "meta" / f"{directory.name}.json"
            try:
                meta = json.loads(meta_path.read_text())
                found.append(Entry(directory.name, meta["name"], meta["size_bytes"], meta_path.stat().st_mtime))
            except (OSError, ValueError, KeyError):
                found.append(Entry(directory.name, "unknown", tree_size(directory), 0.0))
        return sorted(found, key=lambda entry: entry.used)

    def collect(self, limit_bytes: int, keep: frozenset[str] = frozenset()) -> list[Entry]:
        """Delete least recently used objects until the store holds at most *limit_bytes*, sparing *keep*.

        :returns: what was deleted.
        :raises BasaltError: when a build is running in this store.
        """
        try:
            lock = _flock(self.root / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            with lock:
                return self._collect(limit_bytes, keep)
        except BlockingIOError:
            raise BasaltError(
                "cannot collect garbage",
                why="a build is running in this store",
                remedy="Run it again once the build has finished",
            ) from None

    def _collect(self, limit_bytes: int, keep: frozenset[str]) -> list[Entry]:
        for leftover in (self.root / "work").iterdir():
            remove_tree(leftover)
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        removed = []
        for entry in entries:
            if total <= limit_bytes:
                break
            if entry.key in keep:
                continue
            # The meta file goes last: an object without one is shown as "unknown" and collected first.
            remove_tree(self.path(entry.key))
            (self.root / "meta" / f"{entry.key}.json").unlink(missing_ok=True)
            (self.root / "locks" / f"{entry.key}.lock").unlink(missing_ok=True)
            total -= entry.size_bytes
            removed.append(entry)
        return removed


@contextlib.contextmanager
def _flock(path: Path, operation: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Delete *path* and all below it, read-only directories (as packages and tarballs may bring) included."""
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o755)
    for root, directories, _ in os.walk(path):
        for name in directories:
            directory = Path(root) / name
            if not directory.is_symlink():
                directory.chmod(0o755)
    shutil.rmtree(path, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    """Make a finished output durable before its name says so. One syncfs(2) would flush the whole host; files are few and large."""
    names = 0
    for root, _, files in os.walk(directory):
        names += len(files)
        if names > 2000:  # an unpacked tree: cheap to make again, and fsync per file would take minutes
            os.sync()
            return
        for name in files:
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
