"""What measurements share: the commands as a user calls them, trees of tools, and nodes that are stopped whatever happens.

Contexts and virtual machines live below ``build/bench``, apart from the operator's own. The store is the user's: a figure for "nothing
changed" says nothing in an empty one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from basalt import contexts
from basalt.client import Target
from basalt.errors import BasaltError
from osbuild import paths
from osbuild.commands.image import fetch_missing
from osbuild.graph import Step, build
from osbuild.pipeline import Image, image_graph
from osbuild.progress import Progress
from osbuild.steps.trees import tree_step
from osbuild.store import Store
from osbuild.vm import accel, machines

DIRECTORY = paths.PROJECT / "build" / "bench"
PROFILE = "minimal"


def command(*words: str) -> list[str]:
    """The osbuild of this checkout, run by this interpreter."""
    return [sys.executable, "-m", "osbuild", *words]


@dataclass(frozen=True)
class BootedNode:
    """A running node that was switched on for this measurement.

    :param began: when QEMU's process began, in seconds of the host's CLOCK_BOOTTIME.
    :param seconds: from then until an RPC over mutual TLS was answered.
    :param console: the console's lines, each with the seconds from *began* to when it was seen.
    """

    name: str
    target: Target
    began: float
    seconds: float
    console: tuple[tuple[float, str], ...]


class Bench:
    """One run.

    :param repeat: how often a figure of time is taken; the median is printed.
    :param note: told what goes on.
    """

    def __init__(self, repeat: int, note: Callable[[str], None]) -> None:
        self.repeat = repeat
        self.note = note
        self.directory = DIRECTORY
        self.store = Store()
        self.accelerator = ""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold ``build/bench`` for this run, and end what an earlier run was kept from ending.

        :raises BasaltError: another run holds it; the two would measure each other.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CONFIG_HOME"] = str(self.directory / "config")
        os.environ["XDG_STATE_HOME"] = str(self.directory / "state")
        os.environ.pop("OSCTL_CONFIG", None)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BasaltError(
                    "another run of the benchmarks is under way", remedy="Wait for it; two would measure each other"
                ) from None
            self._stop_all()
            try:
                yield
            finally:
                self._stop_all()

    def _stop_all(self) -> None:
        for record in machines.records():
            machines.power_off(record)
            machines.forget(record.name)

    def osbuild(self, *words: str, cwd: Path = paths.PROJECT) -> Any:
        """What ``osbuild WORDS -o json`` answers.

        :raises BasaltError: the command's own error.
        """
        done = subprocess.run(
            command("--progress", "none", *words, "-o", "json"), cwd=cwd, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise failure(words[0], done.stderr)
        return json.loads(done.stdout)

    @cached_property
    def image(self) -> dict[str, Any]:
        """The image at hand, built if need be, as ``osbuild image -o json`` describes it."""
        self.note("building the image, if need be")
        answer: dict[str, Any] = self.osbuild("image", "--profile", PROFILE, "--output", str(self.directory / "image"))
        return answer

    def ensure_image(self) -> None:
        """Build the image at hand now, so that nothing that is timed waits for it."""
        _ = self.image

    @cached_property
    def graph(self) -> Image:
        """The steps of the image at hand; their outputs are in the store."""
        self.ensure_image()
        return image_graph(PROFILE)

    def output(self, step: Step) -> Path:
        """The output directory of *step*, made if need be."""
        fetch_missing(self.store, self.graph.debian, [step], Progress(), None)
        build(self.store, [step], Progress())
        return self.store.path(step.key)

    def tree(self, name: str) -> Path:
        """The locked tree of tools called *name*."""
        return self.output(tree_step(self.graph.debian, name))

    def choose_accelerator(self) -> str:
        """kvm or tcg, as ``osbuild boot`` chooses."""
        self.accelerator = accel.choose(self.tree("vm-tools"), self.output(self.graph.kernel), self.store.cache)
        return self.accelerator

    @contextlib.contextmanager
    def node(self, machine: str, *, profile: str = PROFILE) -> Iterator[BootedNode]:
        """Boot a fresh node on *machine* (of qemu/, or a file) for the first time; it is gone when the block ends.

        :raises BasaltError: it did not come up.
        """
        self.ensure_image()
        name = f"bench-{Path(machine).stem}"
        try:
            yield self._boot(name, machine, profile)
        finally:
            with contextlib.suppress(BasaltError):
                machines.power_off(machines.read(name))
            machines.forget(name)

    def _boot(self, name: str, machine: str, profile: str) -> BootedNode:
        process = subprocess.Popen(
            command(
                "--progress", "json", "boot", "--profile", profile, "--machine", machine, "--name", name, "-o", "json"
            ),
            cwd=paths.PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        events, last = [], ""
        for last in process.stderr:
            event = read_event(last, f"boot {name}")
            if event:
                events.append((time.clock_gettime(time.CLOCK_BOOTTIME), *event))
        if process.wait():
            raise failure("boot", last)
        record = machines.read(name)
        self.accelerator = record.accel
        began = record.started / os.sysconf("SC_CLK_TCK")  # proc(5): ticks since the host booted
        return BootedNode(
            name=name,
            target=Target.of_context(contexts.ensure_context(), name),
            began=began,
            seconds=next(clock - began for clock, kind, _ in events if kind == "done"),
            console=tuple((clock - began, text) for clock, kind, text in events if kind == "detail"),
        )


def read_event(line: str, step: str) -> tuple[str, str] | None:
    """Kind and text of a line of ``--progress json`` that is about *step*; None for all others."""
    try:
        event = json.loads(line)
        return (event["event"], event.get("text", "")) if event["step"] == step else None
    except (ValueError, KeyError, TypeError):
        return None


def failure(what: str, printed: str) -> BasaltError:
    """The error that an osbuild command printed as JSON, or, where it is none, its last words."""
    last = printed.strip().rpartition("\n")[2]
    try:
        fields = json.loads(last)
        return BasaltError(fields["error"], why=fields["why"], remedy=fields["remedy"])
    except (ValueError, KeyError, TypeError):
        return BasaltError(f"osbuild {what} failed", why=last)
