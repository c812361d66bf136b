"""What a change of the configuration meets on the node: looked up when somebody asks for one."""

from __future__ import annotations

from pathlib import Path

from machined.configuration import Requester
from machined.cutoff import Caller
from machined.effects import Circumstances
from machined.paths import Paths

MOUNTS = "/var/mnt/"  # below it, volumes are mounted under their names


async def survey(node: Paths, requester: Requester, bootstrap_authority: bytes) -> Circumstances:
    """The loaded modules, the mounted volumes, and the way by which the caller came."""
    from machined.network import way

    try:
        found, problem = await way.look_up(requester.address, node.proc), ""
    except OSError as error:
        found, problem = None, str(error)
    return Circumstances(
        loaded_modules(node.sys / "module"),
        mounted_volumes(node.proc / "self/mounts"),
        Caller(found, problem, requester.certificate_pem, bootstrap_authority),
    )


def loaded_modules(directory: Path) -> frozenset[str]:
    """The modules that were loaded. ``/sys/module`` has some that are built in as well; they alone have no ``initstate``."""
    try:
        return frozenset(path.name for path in directory.iterdir() if (path / "initstate").exists())
    except OSError:
        return frozenset()


def mounted_volumes(mounts: Path) -> frozenset[str]:
    """The names of the volumes that are mounted (proc_pid_mounts(5))."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    targets = (line.split()[1] for line in lines if len(line.split()) > 1)
    return frozenset(target.removeprefix(MOUNTS) for target in targets if target.startswith(MOUNTS))
