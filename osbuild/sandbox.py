"""Running programs of a locked trixie tree by bubblewrap: no network, no host files, the same environment everywhere.

Every external command of a build passes through :meth:`Sandbox.run`. It works for an ordinary user (user namespace) and for
root, and logs the command so that it can be pasted into a shell.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basalt.errors import BasaltError

# What programs see of the outside. TZ, LANG and HOME leak into outputs when left to the host (reproducible-builds.org).
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin",
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
}
_MERGED = ("bin", "sbin", "lib", "lib64")
_TAIL_LINES = 30
# How bubblewrap words the ways in which a host forbids what it does; "execvp" is about a program of the tree instead.
_REFUSED = re.compile(r"bwrap: (?!execvp).*(namespace|uid map|Operation not permitted|Permission denied)")


@dataclass(frozen=True)
class Bind:
    """A host path and where the sandbox shows it."""

    source: Path
    target: str
    writable: bool = False
    device: bool = False


class CommandError(BasaltError):
    """A sandboxed command ended with an error. Carries what is needed to look into it."""

    def __init__(
        self, argv: Sequence[str], outer: Sequence[str], returncode: int, tail: str, log: Path, step: str = ""
    ) -> None:
        how = f"exit status {returncode}" if returncode >= 0 else f"signal {signal.Signals(-returncode).name}"
        self.argv, self.outer, self.returncode, self.tail, self.log = tuple(argv), tuple(outer), returncode, tail, log
        super().__init__(
            f"step {step}: {argv[0]} failed" if step else f"{argv[0]} failed",
            why=f"{how}\n{tail}".rstrip(),
            remedy=f"Whole log: {log}\nRun it again: {shlex.join(outer)}"
            + (f"\nOr look around: osbuild image --shell-at {step} (with the same options)" if step else ""),
        )

    def at_step(self, step: str) -> CommandError:
        """The same error, naming the step."""
        return CommandError(self.argv, self.outer, self.returncode, self.tail, self.log, step)


@dataclass
class Running:
    """Processes under way, so that Ctrl-C or another step's failure can end them all."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    _processes: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Register *process*; ends it at once when everything has been cancelled already."""
        with self._lock:
            self._processes.add(process)
        if self.cancelled.is_set():
            _end(process)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        """*process* has ended."""
        with self._lock:
            self._processes.discard(process)

    def cancel(self) -> None:
        """End all processes; later ones end as they start."""
        self.cancelled.set()
        with self._lock:
            for process in self._processes:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    # The whole group: a bubblewrap that is killed while it sets up its namespaces leaves a child behind that waits for it for ever.
    # Once they are set up, the end of bubblewrap is the end of its PID namespace and of everything inside.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def bubblewrap() -> str:
    """Path of bwrap.

    :raises BasaltError: when it is not installed.
    """
    found = shutil.which("bwrap")
    if not found:
        raise BasaltError(
            "bubblewrap is not installed", why="every build tool runs inside it", remedy="apt-get install bubblewrap"
        )
    return found


@dataclass(frozen=True)
class Sandbox:
    """A tree to run programs of, and what else they may see. *detached* programs outlive the caller (virtual machines)."""

    tree: Path
    binds: Sequence[Bind] = ()
    network: bool = False
    detached: bool = False

    def command(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "/work") -> list[str]:
        """The whole bwrap command line for *argv*."""
        command = [bubblewrap(), "--unshare-user", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        command += [] if self.network else ["--unshare-net"]
        if self.detached:
            # The program's own pid must be the host's, to end it by; and /proc can be mounted only for a namespace of one's own.
            command += ["--bind", "/proc", "/proc"]
        else:
            # A pid namespace of its own, so that nothing a step starts outlives it.
            command += ["--unshare-pid", "--proc", "/proc", "--die-with-parent"]
        command += ["--hostname", "osbuild", "--clearenv", "--uid", "1000", "--gid", "1000"]
        command += ["--ro-bind", str(self.tree / "usr"), "/usr", "--ro-bind", str(self.tree / "etc"), "/etc"]
        for name in _MERGED:
            command += ["--symlink", f"usr/{name}", f"/{name}"]
        command += ["--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"]
        for bind in self.binds:
            kind = "--dev-bind" if bind.device else "--bind" if bind.writable else "--ro-bind"
            command += [kind, str(bind.source), bind.target]
        for name, value in (ENVIRONMENT | dict(env or {})).items():
            command += ["--setenv", name, value]
        return [*command, "--chdir", cwd, "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
        stdin: bytes | None = None,
        running: Running | None = None,
    ) -> str:
        """Run *argv* to its end; what it prints is appended to *log* and returned.

        :raises CommandError: when it ends with anything but 0.
        """
        outer = self.command(argv, env=env, cwd=cwd)
        running = running or Running()
        with log.open("ab") as stream:
            stream.write(f"$ {shlex.join(argv)}\n".encode())
            stream.flush()
            begin = stream.tell()
            # Every process of the sandbox inherits the writing end, so the reading end tells when the last of them is gone:
            # those of a killed bubblewrap die a little later, and may still write into a directory that is being deleted.
            last_one_out, inherited = os.pipe()
            try:
                process = subprocess.Popen(
                    outer,
                    stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    pass_fds=(inherited,),
                    process_group=0,
                )
            finally:
                os.close(inherited)
            running.add(process)
            try:
                process.communicate(stdin)
            finally:
                if process.returncode is None:
                    _end(process)
                    process.wait()
                os.read(last_one_out, 1)
                os.close(last_one_out)
                running.remove(process)
        with log.open("rb") as reader:
            reader.seek(begin)
            output = reader.read().decode(errors="replace")
        if process.returncode:
            tail = "\n".join(output.splitlines()[-_TAIL_LINES:])
            raise _explain(argv, outer, process.returncode, tail, log)
        return output


def _explain(argv: Sequence[str], outer: Sequence[str], returncode: int, tail: str, log: Path) -> BasaltError:
    if _REFUSED.match(tail):
        return BasaltError(
            "cannot enter the build sandbox",
            why=tail.strip(),
            remedy="This host forbids user namespaces. On Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0; "
            "on Debian: sysctl kernel.unprivileged_userns_clone=1; in a container: run it with user namespaces allowed",
        )
    return CommandError(argv, outer, returncode, tail, log)


def shell(sandbox: Sandbox, env: Mapping[str, str] | None = None) -> int:
    """An interactive shell inside *sandbox*, for ``--shell-at``. Returns its exit status."""
    terminal = {"TERM": os.environ.get("TERM", "dumb"), "PS1": "[osbuild \\w]$ "}
    return subprocess.call(sandbox.command(["/usr/bin/sh", "-i"], env=terminal | dict(env or {})))
