"""The programs that s6 keeps running, as a table, and its rendering into s6 service directories.

osbuild calls :func:`render_service_directories` when it builds the image, so the directories lie on the verified root; ``/init``
links them into ``/run/service``. A service's ``run`` is a few lines of Python that read ``service.json`` beside it and prepare the
process (:mod:`machined.launch`): there is no shell to do it.

Layout of the result::

    <target>/.s6-svscan/finish       what PID 1 becomes when s6 ends: the shutdown itself
    <target>/.s6-svscan/crash        what PID 1 becomes when s6-svscan fails
    <target>/<service>/run           a script; service.json holds its parameters
    <target>/<service>/notification-fd, timeout-kill, down
    <target>/<service>/log/run       s6-log, as its own user, into /run/log/<service>
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from machined import paths

NOTIFICATION_FD = 3
DEATH_TALLY_MAX = 1000  # deaths that s6 remembers per service; ListServices counts them (s6-supervise, max-death-tally)

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Service:
    """One supervised program.

    Exactly one of *argv* (a program) and *entry* (``module:function`` run in the launching interpreter) is set. Started by s6
    itself when *autostart*, otherwise by machined when what it needs is there. *uid* 0 keeps all capabilities; any other uid gets
    none. *memory_min_bytes* is what reclaim may not take from it.
    """

    name: str
    purpose: str
    argv: tuple[str, ...] = ()
    entry: str = ""
    uid: int = 0
    oom_score_adj: int = 0
    memory_min_bytes: int = 0
    open_files_max: int = 4096
    autostart: bool = True
    notifies: bool = False
    kill_after_ms: int = 10_000

    def parameters(self) -> dict[str, object]:
        """What :mod:`machined.launch` reads at run time."""
        return {
            "name": self.name,
            "argv": list(self.argv),
            "entry": self.entry,
            "uid": self.uid,
            "oom_score_adj": self.oom_score_adj,
            "memory_min_bytes": self.memory_min_bytes,
            "open_files_max": self.open_files_max,
        }


SERVICES: tuple[Service, ...] = (
    Service(
        "machined",
        purpose="the node's daemon: owns the configuration and everything that follows from it",
        entry="machined.daemon:main",
        oom_score_adj=-950,
        memory_min_bytes=64 * _MIB,
        notifies=True,
    ),
    Service(
        "gateway",
        purpose="terminates mutual TLS on the API's port and relays to machined",
        entry="machined.gateway.main:main",
        uid=paths.UID_GATEWAY,
        oom_score_adj=-950,
        memory_min_bytes=48 * _MIB,
        open_files_max=8192,  # a thousand idle connections and the calls on the others
        notifies=True,
        kill_after_ms=5_000,
    ),
    Service(
        "containerd",
        purpose="runs containers; its data lies on DATA, so machined starts it once that is mounted",
        argv=(paths.CONTAINERD, "--config", "/run/basalt/containerd.toml"),
        oom_score_adj=-900,
        memory_min_bytes=48 * _MIB,
        open_files_max=1_048_576,
        autostart=False,
    ),
    Service(
        "chronyd",
        purpose="keeps the clock; machined starts it once it has written its configuration",
        # -n: stay in the foreground, -u: give up root after binding; it keeps CAP_SYS_TIME by itself
        argv=(paths.CHRONYD, "-n", "-u", paths.USER_CHRONY, "-f", "/run/basalt/chrony.conf"),
        oom_score_adj=-500,
        autostart=False,
    ),
)

_RUN = f"""#!{paths.PYTHON} -I
from machined.launch import main

main()
"""

# -S: nothing outside the standard library is needed, and without site a logger starts in 10 ms less. argv mirrors s6-log(8):
# ISO 8601 stamps, n files of s bytes; -d3 is left out on purpose: a logger is ready as soon as it runs.
_LOG_RUN = f"""#!{paths.PYTHON} -IS
import os

directory = "/run/log/{{name}}"
os.makedirs(directory, 0o700, exist_ok=True)
os.chown(directory, {paths.UID_LOG}, {paths.UID_LOG})
os.setgroups([])
os.setgid({paths.UID_LOG})
os.setuid({paths.UID_LOG})
os.execv("{paths.S6_LOG}", ["s6-log", "-b", "T", "n{paths.LOG_FILES}", "s{paths.LOG_FILE_BYTES}", directory])
"""

_FINISH = f"""#!{paths.PYTHON} -I
from machined.finish import main

main()
"""

_CRASH = f"""#!{paths.PYTHON} -I
from machined.finish import crashed

crashed()
"""


def find(name: str) -> Service | None:
    """The service called *name*."""
    return next((service for service in SERVICES if service.name == name), None)


def _script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def render_service(service: Service, directory: Path) -> None:
    """Write one service directory."""
    directory.mkdir(mode=0o755)
    _script(directory / "run", _RUN)
    _file(directory / "service.json", json.dumps(service.parameters(), indent=1, sort_keys=True) + "\n")
    _file(directory / "timeout-kill", f"{service.kill_after_ms}\n")
    _file(directory / "max-death-tally", f"{DEATH_TALLY_MAX}\n")
    if service.notifies:
        _file(directory / "notification-fd", f"{NOTIFICATION_FD}\n")
    if not service.autostart:
        _file(directory / "down", "")
    log = directory / "log"
    log.mkdir(mode=0o755)
    _script(log / "run", _LOG_RUN.format(name=service.name))
    if not service.autostart:
        _file(log / "down", "")  # no logger for a program that may never run


def render_service_directories(target: Path) -> None:
    """Write the service directories of :data:`SERVICES` below *target*, which must not exist yet.

    The result depends on nothing but this module: the same bytes, names and modes every time.

    :raises FileExistsError: *target* exists.
    """
    target.mkdir(mode=0o755, parents=True)
    control = target / ".s6-svscan"
    control.mkdir(mode=0o755)
    _script(control / "finish", _FINISH)
    _script(control / "crash", _CRASH)
    for service in SERVICES:
        render_service(service, target / service.name)
