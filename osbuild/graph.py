"""The step graph: what a build consists of, which parts are already there, and running the rest.

A step's key is the hash of everything that can change its output:

* its own **code** (:mod:`osbuild.keys`): every module of this project that its module imports, however deep;
* its **tools** and other **inputs**: the keys of the steps they come from;
* the **files** it reads from the checkout, by content;
* its **parameters**.

Keys are known before anything runs, so ``osbuild plan`` can say for every step whether it is cached and what made it stale.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from basalt.errors import BasaltError
from osbuild.keys import FRAMEWORK_EPOCH, code_digest, file_digests
from osbuild.progress import Progress
from osbuild.sandbox import Bind, CommandError, Running, Sandbox
from osbuild.store import Store, Workspace

RunFunction = Callable[["Context"], None]


@dataclass(frozen=True)
class Step:
    """One node of the graph.

    :param name: unique in a graph; names logs and progress lines.
    :param run: fills ``ctx.out``; a module-level function, whose module is the step's code.
    :param inputs: other steps by the name under which ``ctx.input`` finds them.
    :param params: JSON values.
    :param files: files and directories of the checkout that the step reads.
    """

    name: str
    run: RunFunction
    inputs: Mapping[str, Step] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()

    @functools.cached_property
    def components(self) -> dict[str, str]:
        """What goes into the key, each part by its name, so that two keys can be compared."""
        parts = {"epoch": str(FRAMEWORK_EPOCH), "code": code_digest(self.run.__module__) + "." + self.run.__qualname__}
        parts |= {f"input {name}": step.key for name, step in self.inputs.items()}
        parts |= {f"parameter {name}": json.dumps(value, sort_keys=True) for name, value in self.params.items()}
        for path in self.files:
            parts |= {f"file {name}": digest for name, digest in file_digests(path)}
        return parts

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 over name and components, hex."""
        blob = json.dumps([self.name, self.components], sort_keys=True).encode()
        return hashlib.sha256(blob).hexdigest()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Context:
    """What a running step sees.

    ``out`` is the directory to fill, ``work`` scratch space; both are visible to sandboxed programs as ``/out`` and ``/work``,
    each input as ``/in/<name>``.
    """

    def __init__(self, step: Step, store: Store, work: Workspace, progress: Progress, running: Running) -> None:
        self.step = step
        self.store = store
        self.out = work.out
        self.work = work.scratch
        self.params = step.params
        self.progress = progress
        self._running = running
        self.log = store.log_path(step.name, step.key)

    def input(self, name: str) -> Path:
        """The output directory of an input step."""
        return self.store.path(self.step.inputs[name].key)

    def note(self, text: str) -> None:
        """Tell the user how far this step is."""
        self.progress.detail(self.step.name, text)

    def sandbox(self, tools: str, binds: Sequence[Bind] = ()) -> Sandbox:
        """The tree of input *tools*, with this step's directories bound in."""
        bound = [Bind(self.work, "/work", writable=True), Bind(self.out, "/out", writable=True)]
        bound += [Bind(self.input(name), f"/in/{name}") for name in self.step.inputs if name != tools]
        return Sandbox(self.input(tools), (*bound, *binds))

    def run(
        self,
        argv: Sequence[str],
        *,
        tools: str = "tools",
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
        binds: Sequence[Bind] = (),
        stdin: bytes | None = None,
    ) -> str:
        """Run *argv* in the sandbox of input *tools*; its output goes to the step's log and is returned.

        :raises CommandError: with the command, the end of the log and where the log lies.
        """
        return self.sandbox(tools, binds).run(argv, log=self.log, env=env, cwd=cwd, stdin=stdin, running=self._running)


@dataclass(frozen=True)
class Planned:
    """A step and what becomes of it. "unneeded" is not in the store, and nothing that must run asks for it.

    :param reasons: for a step to build, what changed since it was last built here.
    """

    step: Step
    state: Literal["cached", "build", "unneeded"]
    reasons: tuple[str, ...] = ()


def topological(targets: Sequence[Step]) -> list[Step]:
    """*targets* and all they need, inputs before users; steps of the same key once.

    :raises ValueError: when two different steps share a name (their logs and explanations would mix).
    """
    order: dict[str, Step] = {}
    names: dict[str, str] = {}

    def visit(step: Step) -> None:
        if step.key in order:
            return
        for needed in step.inputs.values():
            visit(needed)
        if names.setdefault(step.name, step.key) != step.key:
            raise ValueError(f"two different steps are called {step.name}")
        order[step.key] = step

    for target in targets:
        visit(target)
    return list(order.values())


def plan(store: Store, targets: Sequence[Step]) -> list[Planned]:
    """For every step of the graph: whether :func:`build` would run it, and why."""
    needed = {step.key for step in _needed(store, targets)}

    def planned(step: Step) -> Planned:
        if step.key in needed:
            return Planned(step, "build", _reasons(store, step))
        return Planned(step, "cached" if store.has(step.key) else "unneeded")

    return [planned(step) for step in topological(targets)]


def _reasons(store: Store, step: Step) -> tuple[str, ...]:
    before, now = store.latest(step.name), step.components
    if not before:
        return ("never built here",)
    changed = [name for name in now if name in before and before[name] != now[name]]
    added = [f"{name} (new)" for name in now if name not in before]
    gone = [f"{name} (gone)" for name in before if name not in now]
    return tuple(sorted(changed + added + gone)) or ("deleted from the store",)


@dataclass(frozen=True)
class Built:
    """Outcome of :func:`build`: names of steps that ran, and of those that were cached; wall time in seconds."""

    built: tuple[str, ...]
    cached: tuple[str, ...]
    seconds: float


def build(store: Store, targets: Sequence[Step], progress: Progress, *, jobs: int = 2) -> Built:
    """Make every output of *targets* present in *store*. Independent steps run at the same time.

    Only what is needed runs: a step whose users are all cached is not built, even when it has been collected.

    :raises BasaltError: the first failure; other running steps are stopped, finished ones stay in the store.
    """
    started = time.monotonic()
    needed = _needed(store, targets)
    cached = tuple(step.name for step in topological(targets) if step.key not in {s.key for s in needed})
    running = Running()
    progress.begin([step.name for step in needed])
    with store.using(), concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
        futures: dict[concurrent.futures.Future[None], Step] = {}
        waiting = list(needed)
        done = {step.key for step in topological(targets)} - {step.key for step in needed}
        try:
            while waiting or futures:
                ready = [step for step in waiting if all(i.key in done for i in step.inputs.values())]
                for step in ready[: jobs - len(futures)]:
                    waiting.remove(step)
                    futures[pool.submit(_build_one, store, step, progress, running)] = step
                # A timeout keeps the main thread able to see Ctrl-C.
                finished, _ = concurrent.futures.wait(
                    futures, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in finished:
                    step = futures.pop(future)
                    future.result()
                    done.add(step.key)
        except BaseException:
            running.cancel()
            raise
    return Built(tuple(step.name for step in needed), cached, time.monotonic() - started)


def _needed(store: Store, targets: Sequence[Step]) -> list[Step]:
    """The steps that must run, inputs first: missing targets, and missing inputs of steps that must run."""
    wanted: set[str] = set()

    def visit(step: Step) -> None:
        if step.key in wanted or store.has(step.key):
            return
        wanted.add(step.key)
        for needed in step.inputs.values():
            visit(needed)

    for target in targets:
        visit(target)
    return [step for step in topological(targets) if step.key in wanted]


def _build_one(store: Store, step: Step, progress: Progress, running: Running) -> None:
    def waiting() -> None:
        progress.detail(step.name, "another osbuild is at it; waiting")

    progress.start(step.name)
    try:
        with store.building(step.key, cancelled=running.cancelled, waiting=waiting) as ours:
            if ours:
                _run(store, step, progress, running)
        progress.done(step.name, "" if ours else "built by another osbuild meanwhile")
    except OSError as error:
        progress.failed(step.name)
        raise disk_error(store, step, error) from error
    except BaseException:
        progress.failed(step.name)
        raise


def _run(store: Store, step: Step, progress: Progress, running: Running) -> None:
    work = store.workspace(step.key)
    try:
        store.log_path(step.name, step.key).write_bytes(b"")
        step.run(Context(step, store, work, progress, running))
        store.publish(step.key, step.name, work, step.components)
    except CommandError as error:
        if os.strerror(errno.ENOSPC) in error.tail:
            store.discard(work)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if running.cancelled.is_set():
            store.discard(work)
        # Otherwise it stays, so that the pasted command finds its directories; the next run of the step sweeps it away.
        raise error.at_step(step.name) from None
    except BaseException:
        store.discard(work)
        raise


def disk_error(store: Store, step: Step, error: OSError) -> BasaltError:
    """An OSError of a step in words; a full disk says what can be deleted."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        largest = sorted(store.entries(), key=lambda entry: -entry.size_bytes)[:3]
        names = ", ".join(f"{entry.name} {entry.size_bytes >> 20} MiB" for entry in largest)
        return BasaltError(
            f"step {step.name} failed",
            why=f"no space left at {store.cache}",
            remedy=f"Free space there, or run 'osbuild cache gc --limit 2G' (largest objects: {names or 'none'})",
        )
    return BasaltError(
        f"step {step.name} failed", why=f"{error.strerror}: {error.filename}" if error.filename else str(error)
    )


@contextlib.contextmanager
def failing_workspace(store: Store, step: Step, progress: Progress) -> Iterator[Context]:
    """A workspace for ``--shell-at``: as the step would see it, thrown away afterwards."""
    with store.using(), store.building(step.key + "-shell"):
        work = store.workspace(step.key + "-shell")
        try:
            yield Context(step, store, work, progress, Running(threading.Event()))
        finally:
            store.discard(work)
