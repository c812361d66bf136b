# ruff: noqa: PTH102, PTH123
# Runs before every service, where importing pathlib would cost more than all the rest.
"""From a service's ``run`` to the service itself: cgroup, limits, identity, privileges, then exec or call.

Runs in the service directory, as s6-supervise leaves it. Whatever fails here is printed, and ends the process: s6 tries again
after a second, and ``osctl get services`` shows the restarts. A Python service goes on in this interpreter: no second start-up.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys

from machined import paths

TYPE_CHECKING = False  # mypy treats the name specially (PEP 484); importing typing for it costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict

    class Parameters(TypedDict):
        """``service.json``; see :meth:`machined.services.Service.parameters`."""

        name: str
        argv: list[str]
        entry: str
        uid: int
        oom_score_adj: int
        memory_min_bytes: int
        open_files_max: int


ENVIRONMENT = {"PATH": "/usr/bin:/usr/sbin", "LANG": "C.UTF-8", "HOME": "/"}


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _best_effort(path: str, text: str) -> None:
    """Protection that a kernel or a test host may lack: its absence is worth a line, not the service."""
    try:
        _write(path, text)
    except OSError as error:
        print(f"launch: {path}: {error.strerror}", file=sys.stderr)


def enter_cgroup(name: str, memory_min_bytes: int) -> None:
    """Move this process to its own cgroup below :data:`paths.CGROUP_SYSTEM`."""
    directory = f"{paths.CGROUP_SYSTEM}/{name}"
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        pass  # a restart
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr)
        return
    if memory_min_bytes:
        _best_effort(f"{directory}/memory.min", str(memory_min_bytes))
    _best_effort(f"{directory}/cgroup.procs", "0")


def environment(name: str) -> dict[str, str]:
    """What the service finds in its environment: :data:`ENVIRONMENT`, and what its ServiceConfig adds.

    :raises OSError: the addition is there and cannot be read: a service without it might go where it must not.
    :raises ValueError: so it is when it cannot be understood.
    """
    try:
        with open(f"{paths.SERVICE_INPUTS}/{name}.environment", encoding="utf-8") as stream:
            added: dict[str, str] = json.load(stream)
    except FileNotFoundError:
        return ENVIRONMENT
    return ENVIRONMENT | added


def become(uid: int) -> None:
    """Give up root for *uid*: no group, no capability, and no way back.

    :raises OSError: any step failed; the process must not go on.
    """
    from machined.syscalls import drop_capability_bounds, set_no_new_privileges

    drop_capability_bounds()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)  # takes permitted and effective capabilities along (capabilities(7))
    set_no_new_privileges()


def resolve(entry: str) -> Callable[[], None]:
    """The function that ``module:function`` names."""
    from importlib import import_module

    module, _, function = entry.partition(":")
    found: Callable[[], None] = getattr(import_module(module), function)
    return found


def main() -> None:
    """Become the service of the current directory."""
    os.dup2(1, 2)  # what a program says on standard error belongs in its log, not on the console
    with open("service.json", encoding="utf-8") as stream:
        parameters: Parameters = json.load(stream)
    enter_cgroup(parameters["name"], parameters["memory_min_bytes"])
    _best_effort("/proc/self/oom_score_adj", str(parameters["oom_score_adj"]))
    limit = parameters["open_files_max"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.environ.clear()
    os.environ.update(environment(parameters["name"]))
    if parameters["uid"]:
        become(parameters["uid"])
    if parameters["entry"]:
        gc.disable()  # importing makes tens of thousands of objects and no garbage
        start = resolve(parameters["entry"])
        gc.freeze()  # nor need the collector ever look at them again
        gc.enable()
        start()
    else:
        os.execv(parameters["argv"][0], parameters["argv"])
