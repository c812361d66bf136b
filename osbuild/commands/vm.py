"""``osbuild boot | start | list | stop | console``."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from basalt import contexts, output
from basalt.commandline import Arguments
from basalt.errors import BasaltError, UsageError
from osbuild.commands.image import build_image, fetch_missing, graph_of
from osbuild.graph import build
from osbuild.pipeline import Image
from osbuild.progress import Progress, make_progress
from osbuild.steps.trees import tree_step
from osbuild.store import Store
from osbuild.vm import accel, definition, handover, machines

_PREFIX = "basalt: "
_TAIL_LINES = 15
# Firmware clears the screen and moves about on it (ECMA-48 control sequences).
_ESCAPES = re.compile(r"\x1b\[[0-9;=?]*[A-Za-z]")


@dataclass
class Announced:
    """What the node has said of itself on its console."""

    mode: str = ""
    fingerprint: str = ""
    version: str = ""
    addresses: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        """Read one line of the console."""
        _, found, text = line.partition(_PREFIX)
        words = text.split()
        if not found or not words:
            return
        if text.startswith("api ready"):
            self.mode = next((word.removeprefix("mode=") for word in words if word.startswith("mode=")), "")
        elif words[0] == "fingerprint" and len(words) > 1:
            self.fingerprint = words[1]
        elif words[0] == "version" and len(words) > 1:
            self.version = words[1]
        elif words[0] == "address" and len(words) > 2:
            self.addresses.append(f"{words[1]} {words[2]}")


def boot(arguments: Arguments) -> int:
    """Build what is missing, start the machine, and wait until its API answers."""
    store, image = Store(), graph_of(arguments)
    machine = definition.load(arguments.machine)
    name = arguments.name or image.name
    machines.directory_of(name)
    extra = _more_words(arguments.cmdline, machine)
    asked = handover.wanted(arguments.fw_cfg, arguments.oem_strings, arguments.config_drive)
    progress = make_progress(arguments.progress)
    try:
        build_image(store, image, image.targets(("raw",)), arguments, progress)
        tools = tree_step(image.debian, "vm-tools")
        needed = [tools, *([image.tools] if asked.drives else [])]
        fetch_missing(store, image.debian, needed, progress, arguments.mirror)
        build(store, needed, progress)
        ca = None if arguments.no_client_ca else _client_ca()
        with store.using():
            record = _first_start(
                store, image, name, arguments.machine, machine, store.path(tools.key), ca, asked, extra
            )
        with _ended_by_ctrl_c(record):
            result = _until_ready(record, 0, arguments.timeout, progress, quiet=arguments.detach)
    finally:
        progress.close()
    output.answer(arguments.form, result, _as_text(result))
    return 0


def _client_ca() -> bytes:
    """The authority of the current osctl context, made when there is none yet."""
    return contexts.client_ca_pem(contexts.ensure_context())


def _more_words(words: str, machine: definition.Machine) -> str:
    """What ``--cmdline`` adds, with the space before it.

    :raises UsageError: the machine boots through firmware, where the command line is part of the signed kernel image.
    """
    if words and machine.firmware != "none":
        raise UsageError(
            "--cmdline needs a machine without firmware",
            why="with firmware, the kernel's command line is part of the unified kernel image",
            remedy="Use --machine direct, or [boot] cmdline in the profile",
        )
    return f" {words}" if words else ""


def _first_start(
    store: Store,
    image: Image,
    name: str,
    machine_name: str,
    machine: definition.Machine,
    tools: Any,
    ca: bytes | None,
    asked: handover.Wanted,
    extra: str,
) -> machines.Record:
    kernel = store.path(image.kernel.key)
    directory = machines.create(name, store.path(image.disk.key) / "disk.raw", tools, machine, ca)
    handed = handover.prepare(asked, directory, store.path(image.tools.key) if asked.drives else None)
    cmdline = (store.path(image.uki.key) / "cmdline").read_text().strip() + extra
    chosen = accel.choose(tools, kernel, store.cache)
    launching = definition.Launch(name, chosen, cmdline, client_ca=ca is not None, handover=handed)
    return machines.launch(name, image.name, machine_name, machine, launching, tools=tools, kernel=kernel)


def start(arguments: Arguments) -> int:
    """Start a stopped machine again."""
    console = machines.directory_of(arguments.name) / "console.log"
    offset = console.stat().st_size if console.exists() else 0
    record = machines.restart(arguments.name)
    progress = make_progress(arguments.progress)
    try:
        with _ended_by_ctrl_c(record):
            result = _until_ready(record, offset, arguments.timeout, progress, quiet=True)
    finally:
        progress.close()
    output.answer(arguments.form, result, _as_text(result))
    return 0


@contextlib.contextmanager
def _ended_by_ctrl_c(record: machines.Record) -> Iterator[None]:
    """Leave no machine running that nobody was told of; its disk and its console stay."""
    try:
        yield
    except KeyboardInterrupt:
        machines.power_off(record)
        raise


def _until_ready(
    record: machines.Record, offset: int, timeout_s: float, progress: Progress, *, quiet: bool
) -> dict[str, Any]:
    """Follow the console until the node announces its API, then make sure that it answers.

    :raises BasaltError: when the machine ends, panics, or stays silent; with the last lines of the console.
    """
    step = f"boot {record.name}"
    progress.start(step)
    deadline = time.monotonic() + timeout_s
    announced = Announced()
    tail: list[str] = []
    for line in machines.console_lines(record, offset, lambda: time.monotonic() > deadline):
        text = _ESCAPES.sub("", line.decode(errors="replace")).rstrip("\r")
        tail = [*tail[-_TAIL_LINES + 1 :], text]
        announced.take(text)
        if not quiet:
            progress.detail(step, text)
        if announced.mode and announced.fingerprint:
            break
    else:
        progress.failed(step)
        ended = "it ended" if not machines.alive(record) else f"no answer within {timeout_s:.0f} s"
        raise BasaltError(
            f"the virtual machine '{record.name}' did not come up",
            why="\n".join([ended, "the console's last lines:", *tail]),
            remedy=f"Whole console: osbuild console {record.name}; remove the machine: osbuild stop {record.name}",
        )
    if record.client_ca:
        _introduce(record, announced)
    progress.done(step)
    return {
        "name": record.name,
        "endpoint": record.endpoint,
        "pid": record.pid,
        "console": str(machines.directory_of(record.name) / "console.log"),
        "accel": record.accel,
        "mode": announced.mode,
        "fingerprint": announced.fingerprint,
    }


def _introduce(record: machines.Record, announced: Announced) -> None:
    """Write the node into the current context, by the fingerprint that its console shows, and ask it for its version."""
    contexts.add_node(record.name, record.endpoint, announced.fingerprint, default=True)
    from basalt.client import Target, connect

    with connect(Target.of_context(contexts.ensure_context(), record.name)) as client:
        client.version()


def _as_text(result: dict[str, Any]) -> str:
    text = output.pairs({key: value for key, value in result.items() if value})
    if result["mode"] == "first-contact":
        text += f"\n\nGive it a configuration: osctl -n {result['name']} apply-config -f node.yaml"
    if result["mode"] == "locked":
        text += "\n\nThe node has no client CA and refuses everyone: boot it without --no-client-ca, or build with --client-ca."
    return text


def list_machines(arguments: Arguments) -> int:
    """All virtual machines with state and endpoint."""
    rows = [
        {
            "name": record.name,
            "state": "running" if machines.alive(record) else "stopped",
            "profile": record.profile,
            "machine": record.machine,
            "accel": record.accel,
            "endpoint": record.endpoint,
            "pid": record.pid,
        }
        for record in machines.records()
    ]
    header = ("name", "state", "profile", "machine", "accel", "endpoint", "pid")
    output.answer(arguments.form, rows, output.table(header, [[row[key] for key in header] for row in rows]))
    return 0


def stop(arguments: Arguments) -> int:
    """Pull a machine's plug; without ``--keep`` its disk goes too, and the context forgets it."""
    record = machines.read(arguments.name)
    machines.power_off(record)
    if not arguments.keep:
        machines.forget(arguments.name)
        with contextlib.suppress(UsageError):  # the user may have forgotten it already
            contexts.remove_node(arguments.name)
    print(f"stopped {arguments.name}" + (", its disk is kept" if arguments.keep else ""))
    return 0


def console(arguments: Arguments) -> int:
    """Print the console's log; with ``--follow`` until the machine ends."""
    record = machines.read(arguments.name)
    for line in machines.console_lines(record, 0, lambda: not arguments.follow):
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    return 0
