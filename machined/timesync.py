"""The concern "time": chrony's configuration from ours, chronyd running exactly when it has servers, and whether it has synchronised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from basalt.config.documents import TimeConfig, TimeServer
from machined import paths, syscalls
from machined.network.dhcp.lease import Lease
from machined.network.names import put
from machined.reconcile import CONVERGED, State, Status, failed, waiting
from machined.services import find
from machined.servicesettings import ServiceKeeper

CHRONY_STATE = "/var/lib/chrony"  # drift and NTS cookies: worth keeping, no loss when DATA is not there


def servers_of(config: TimeConfig | None, leases: Iterable[Lease]) -> tuple[TimeServer, ...]:
    """The configured servers; those that DHCP named where none is configured."""
    if config is not None and config.servers:
        return config.servers
    named = dict.fromkeys(str(address) for lease in leases for address in lease.time_servers)
    return tuple(TimeServer(address=address) for address in named)


def chrony_conf(servers: Iterable[TimeServer]) -> str:
    """chronyd's configuration."""
    lines = []
    for server in servers:
        words = ["pool" if server.pool else "server", server.address]
        words += ["iburst"] if server.iburst else []
        words += ["nts"] if server.nts else []
        lines.append(" ".join(words))
    lines += [
        "makestep 1.0 3",  # a clock that is far off is stepped while the node starts, and only slewed later
        "rtcsync",  # tells the kernel that its clock has a source, and so the kernel keeps the RTC right
        f"driftfile {CHRONY_STATE}/drift",
        f"ntsdumpdir {CHRONY_STATE}",
        "cmdport 0",  # nothing on the node speaks chrony's command protocol: no port, no socket
        "bindcmdaddress /",
        "pidfile /",  # none: s6 knows the process
    ]
    return "".join(f"{line}\n" for line in lines)


class TimeReconciler:
    """Owns chronyd.

    :param ready: whether what chronyd needs (DATA for its drift file) is settled, one way or the other.
    """

    def __init__(
        self,
        node: paths.Paths,
        keeper: ServiceKeeper,
        *,
        config: Callable[[], TimeConfig | None],
        leases: Callable[[], Iterable[Lease]],
        ready: Callable[[], bool],
    ) -> None:
        self._conf: Path = node.chrony_conf
        self._state = node.root / CHRONY_STATE.lstrip("/")
        self._keeper = keeper
        self._config = config
        self._leases = leases
        self._ready = ready

    async def reconcile(self) -> Status:
        """One look."""
        service = find("chronyd")
        if service is None or not self._ready():
            return waiting("the node is still starting")
        if not self._keeper.enabled("chronyd"):
            await self._keeper.keep(service, wanted=False)
            return Status(State.CONVERGED, "chronyd is switched off: the clock follows nothing")
        servers = servers_of(self._config(), self._leases())
        if not servers:
            await self._keeper.keep(service, wanted=False)
            return waiting("no time server is known", "name one in a TimeConfig, or let DHCP name one (option 42)")
        self._prepare_directory()
        conf = chrony_conf(servers)
        put(self._conf, conf)
        status = await self._keeper.keep(service, wanted=True, configuration=conf)
        if status.wanted and not status.up:
            return failed("chronyd keeps ending", "its log says why: osctl logs chronyd")
        if not syscalls.clock_is_synchronised():
            names = ", ".join(server.address for server in servers)
            return waiting(
                f"the clock does not follow {names} yet", "chronyd keeps asking; check that UDP port 123 gets through"
            )
        return CONVERGED

    def _prepare_directory(self) -> None:
        import os

        self._state.mkdir(mode=0o750, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self._state, paths.UID_CHRONY, paths.UID_CHRONY)
