"""The node: what it is, what it owns, and the tasks of which its sequences consist.

:class:`Node` wires the owners of the concerns together and holds no logic of theirs. The tables in :mod:`machined.lifecycle` say in
which order its tasks run.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from basalt.config.documents import AccessConfig, Configuration
from basalt.errors import BasaltError
from basalt.pki import SERVER_NAME
from machined import access, clock, identity, paths, power, storage, syscalls
from machined.audit import AuditLog
from machined.bootentry import BootEntryReconciler
from machined.configuration import ConfigurationOwner, Requester
from machined.console import Console
from machined.effects import Circumstances
from machined.gateway.trust import CONFIGURED, FIRST_CONTACT, LOCKED, ServerIdentity, Trust, write_trust
from machined.generations import GenerationStore
from machined.image import read_boot_id, read_image
from machined.issuing import Issuing
from machined.network.names import write_names
from machined.reconcile import CONVERGED, Board, Reconciler, State, Status, failed, failed_by
from machined.redaction import RedactionKey
from machined.s6 import Supervisor
from machined.sequences import boottime_usec
from machined.services import find
from machined.sources import authority
from machined.sources.authority import Authority
from machined.sources.first import FirstConfiguration
from machined.stages import Stages
from machined.trialwatch import TrialWatch
from machined.watchdog import Watchdog

if TYPE_CHECKING:
    from machined.containers import Containers
    from machined.network.netlink import Events
    from machined.network.reconciler import NetworkReconciler
    from machined.network.view import ReachableAddress

NETWORK_RESYNC_S = 60.0  # for drift that sent no event
FIREWALL_RESYNC_S = 60.0
BOOT_ENTRY_RESYNC_S = 10.0
IDENTITY_RESYNC_S = 30.0  # a clock that was stepped tells nobody
CLOCK_RESYNC_S = 60.0
APPLY_SETTLE_S = 5.0  # how long an apply waits for the reconcilers' first look at it


def _import_ahead() -> None:
    """Import what the later phases need while the earlier ones wait for disks. Whoever comes first waits for the rest."""
    for module in (
        "machined.firewall",
        "machined.network.reconciler",
        "machined.network.netlink",
        "machined.api.server",
        "machined.api.watch",
    ):
        importlib.import_module(module)


class Node:
    """One node below one root directory."""

    def __init__(self, where: paths.Paths) -> None:
        self.paths = where
        self.started_usec = boottime_usec()
        self.image = read_image(where.image_info)
        self.console = Console(where.console)
        self.board = Board()
        self.stages = Stages(where.node_times)
        self.storage = storage.Storage(where)
        self.supervisor = Supervisor(where.services)
        self.audit = AuditLog(where.audit, self._audit_written)
        self.watchdog = Watchdog(where.watchdog)
        self.configuration = ConfigurationOwner(
            GenerationStore(where.configurations),
            before_first=self._pin_authority,
            on_change=self._configuration_changed,
            survey=self._survey,
            reboot=lambda: self.stop_soon(power.REBOOT),
            redaction_key=RedactionKey(where.redaction_key),
            boot_id=lambda: read_boot_id(where.proc),
        )
        self.trial_watch = TrialWatch(
            self.configuration, self.board, self.console, api_answers=lambda: self.api_answers
        )
        self.first = FirstConfiguration(
            where,
            self.configuration,
            boot_disk=lambda: self.storage.disk_name,
            post=lambda status: self.board.post("configuration", status),
            say=self.console.say,
            authority_found=self._authority_found,
        )
        self.network: NetworkReconciler | None = None
        self.containers: Containers | None = None
        self.data_settled = False  # DATA is mounted, or it is known that it cannot be
        self.api_answers = False
        self.stopping = asyncio.Event()
        self.end_action = ""  # what follows once stopping is set; empty when only machined itself ends
        self.on_serving: Callable[[], None] = lambda: None  # called once the API's socket accepts calls
        self._identity: identity.NodeIdentity | None = None
        self._issuing: Issuing | None = None
        self._identity_trouble = CONVERGED  # of the identity itself: what is issued with it comes second
        self._reconcilers: dict[str, Reconciler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._exits = contextlib.AsyncExitStack()

    # --- what the node is

    @property
    def identity(self) -> identity.NodeIdentity:
        """Who the node is; known from the boot's second phase on."""
        if self._identity is None:
            raise BasaltError("the node does not know yet who it is")
        return self._identity

    @property
    def issuing(self) -> Issuing:
        """What issues the server certificates; known as long as the identity is."""
        if self._issuing is None:
            raise BasaltError("the node does not know yet who it is")
        return self._issuing

    @property
    def client_authorities(self) -> str:
        """Whose client certificates are accepted (PEM); empty when nobody's are."""
        return access.authorities(self.configuration.current.access, self.authority.pem)

    @property
    def authority(self) -> Authority:
        """The client authority of the first contact, pinned or found."""
        return self.first.authority

    @property
    def mode(self) -> str:
        """``locked``, ``first-contact`` or ``configured``."""
        if not self.client_authorities:
            return LOCKED
        return CONFIGURED if self.configuration.configured else FIRST_CONTACT

    @property
    def hostname(self) -> str:
        """The configured name, or one made from the node's id."""
        machine = self.configuration.current.machine
        return machine.hostname if machine else self.identity.default_hostname

    @property
    def addresses(self) -> tuple[ReachableAddress, ...]:
        """Where the node can be reached."""
        return self.network.addresses if self.network else ()

    # --- running things

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run *work* beside everything else for as long as the daemon runs."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reconcile(self, concern: str, step: Callable[[], Coroutine[Any, Any, Status]], every_s: float) -> None:
        """Begin to look after *concern*."""
        reconciler = Reconciler(concern, step, self.board, every_s=every_s)
        self._reconcilers[concern] = reconciler
        self.spawn(reconciler.run(), concern)

    def trigger(self, *concerns: str) -> None:
        """Have these looked at soon; those that are not looked after yet will be when their time comes."""
        for concern in concerns:
            if concern in self._reconcilers:
                self._reconcilers[concern].trigger()

    async def settle(self, *concerns: str) -> None:
        """Wait until these have looked at the present state of things once, within reason."""
        present = [self._reconcilers[concern] for concern in concerns if concern in self._reconcilers]
        await asyncio.gather(*(reconciler.settle(APPLY_SETTLE_S) for reconciler in present))

    def stop_soon(self, action: str) -> None:
        """Begin the end of this boot. The first wish stands: a second one would race with it."""
        if not self.stopping.is_set():
            self.end_action = action
            self.stopping.set()

    def on_close(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have *work* done when the daemon ends, the latest first."""
        self._exits.push_async_callback(work)

    async def rest(self) -> None:
        """Stop looking after things, and leave them as they are: what is stopped on purpose must not be started again."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reconcilers.clear()

    async def close(self) -> None:
        """Close what is open. Links, addresses, leases and services stay as they are, for the next machined."""
        await self.rest()
        if self.network:
            await self.network.stop()
        await self._exits.aclose()

    # --- tasks of the boot

    async def prepare_run(self) -> None:
        """Directories in ``/run``, the watchdog, and the boot's stages so far."""
        self.paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.paths.etc.mkdir(mode=0o755, exist_ok=True)
        self.watchdog.arm(paths.WATCHDOG_TIMEOUT_S)
        self.spawn(asyncio.to_thread(_import_ahead), "imports")
        with contextlib.suppress(BasaltError):  # "state" and "data" will say it
            self.storage.locate()
        self.stages.record_way_here(self.paths, self.started_usec)

    async def mount_state(self) -> None:
        """STATE, and from it the time below which the clock cannot be."""
        self.board.post("state", await self.storage.mount_state())
        if storage.apply_last_known_time(self.paths.clock):
            self.console.say("clock was behind the last time known to this node, set to it")
        status = await self._look_at_clock()
        self.board.post("clock", status)
        if status.reason:
            self.console.say(f"clock: {status.reason}")

    async def _look_at_clock(self) -> Status:
        return clock.status_of(time.time(), self.image.build_epoch, synchronised=syscalls.clock_is_synchronised())

    async def establish_identity(self) -> None:
        """Load who the node is, or make it; tell the gateway."""
        directory = self.paths.identity
        status = CONVERGED
        try:
            self._identity = identity.load(directory)
        except BasaltError as error:
            status = failed_by(error)
        if self._identity is None:
            self._identity = identity.make(self.image.build_epoch, identity.kept_id(directory))
            if status is CONVERGED:
                try:
                    identity.keep(self._identity, directory)
                except OSError as error:
                    status = failed(
                        f"the identity cannot be kept: {error}", "it changes at the next boot; look at STATE"
                    )
        self._identity_trouble = status
        self.board.post("identity", status)
        self._issuing = Issuing(
            directory, self._identity.node_id, lambda: self._access.server_lifetime_h, self.publish_trust
        )
        await self.first.find_authority()
        self._post_authority()
        self.console.state_ready()

    def _post_authority(self) -> None:
        if self.authority.pem:
            self.board.post("trust", CONVERGED)
            if clock.stopped(time.time(), self.image.build_epoch):
                self._advance_clock(clock.beginning(self.authority.pem))
        else:
            self.board.post(
                "trust",
                failed(f"no client authority: {self.authority.reasons}", "the console says how to give the node one"),
            )

    def _advance_clock(self, beginning: float) -> None:
        if time.time() < beginning:
            time.clock_settime(time.CLOCK_REALTIME, beginning)
            self.console.say("clock was before its client authority began, set to it")

    async def load_configuration(self) -> None:
        """Take up the configuration on STATE, or else the first one that a source has."""
        status = self.configuration.load()
        self.trial_watch.post()
        self.spawn(self.trial_watch.run(), "trial")
        await self.first.begin(self._state_problem(status))
        self._write_names()
        self.publish_trust()

    async def start_firewall(self) -> None:
        """Close the node, but for what is meant to be open; before it has a network."""
        from machined import tools
        from machined.firewall import FirewallReconciler, RuleSet

        rules = RuleSet(lambda: self.trigger("firewall"))
        rules.start()
        self._exits.callback(rules.close)
        firewall = FirewallReconciler(
            lambda words, script: tools.run([paths.NFT, *words], stdin=script),
            rules.generation,
            firewall=lambda: self.configuration.current.firewall,
            network=lambda: self.configuration.current.network,
        )
        self.reconcile("firewall", firewall.reconcile, FIREWALL_RESYNC_S)
        await self.settle("firewall")

    def _state_problem(self, configuration: Status) -> str:
        """Why it is not known whether the node has had a configuration before; empty when it is. A node that has no STATE at all,
        or no disk, is new at every boot.
        """
        state = self.board.entries().get("state")
        if state and state.status.state is State.FAILED and self.storage.has_state:
            return state.status.reason
        return configuration.reason if configuration.state is State.FAILED else ""

    def _authority_found(self, _: Authority) -> None:
        self._post_authority()
        self.publish_trust()

    async def look_for_configuration(self) -> None:
        """Go on looking for the first configuration beside everything else."""
        self.spawn(self.first.run(), "first configuration")

    async def start_network(self) -> None:
        """Begin to look after the network."""
        from machined.network.dhcp.message6 import duid
        from machined.network.netlink import Events, Netlink
        from machined.network.reconciler import NetworkReconciler

        netlink = Netlink()
        self._exits.callback(netlink.close)
        self.network = NetworkReconciler(
            netlink,
            self.paths,
            config=lambda: self.configuration.current.network,
            hostname=lambda: self.hostname,
            duid=lambda: duid(self.identity.machine_id),
            on_lease_change=lambda: self.trigger("network", "time"),
            announce=lambda address: self.console.address(address.link, address.address),
        )
        events: Events = Events(lambda: self.trigger("network"), self.network.hear, self.network.duplicate)
        events.start()
        self._exits.callback(events.close)
        self.reconcile("network", self.network.reconcile, NETWORK_RESYNC_S)
        await self.settle(
            "network"
        )  # the links are up before the API's imports begin: the network works while they go on

    async def mount_data(self) -> None:
        """DATA; what waits for it goes on whether it could be had or not."""
        try:
            self.board.post("data", await self.storage.mount_data())
        except (BasaltError, OSError) as error:
            self.board.post("data", failed_by(error, "containers cannot run; the API answers all the same"))
        finally:
            self.data_settled = True
            self.trigger("time", "containers", "volumes")

    @property
    def data_is_there(self) -> bool:
        """Whether DATA is mounted."""
        return self.board.state_of("data") is State.CONVERGED

    async def start_housekeeping(self) -> None:
        """Begin to look after the boot entry, the node's certificates and the clock."""
        boot_entry = BootEntryReconciler(self.paths, self.board, disk=lambda: self.storage.disk_directory)
        self.reconcile("boot entry", boot_entry.reconcile, BOOT_ENTRY_RESYNC_S)
        self.reconcile("identity", self._look_after_identity, IDENTITY_RESYNC_S)
        self.reconcile("clock", self._look_at_clock, CLOCK_RESYNC_S)
        self.spawn(self._keep_time(), "last known time")

    async def _keep_time(self) -> None:
        while True:
            self.audit.flush()
            try:
                await self.note_time()
            except OSError as error:
                # The first to notice that STATE takes no more: full, or read-only after an I/O error (errors=remount-ro).
                self.board.post(
                    "state", failed(f"STATE cannot be written: {error}", "configurations are refused; look at the disk")
                )
            await asyncio.sleep(paths.CLOCK_SAVE_S)

    # --- consequences of a configuration

    def _pin_authority(self) -> None:
        if self.authority.pem:
            authority.pin(self.paths, self.authority.pem)

    def _configuration_changed(self, _: Configuration) -> None:
        self.trial_watch.post()
        if self.configuration.configured:
            self.first.configured(f"generation {self.configuration.number}")
        self._write_names()
        self.publish_trust()
        self.trigger(*self._reconcilers)

    async def _survey(self, requester: Requester) -> Circumstances:
        from machined.survey import survey

        return await survey(self.paths, requester, self.authority.pem)

    def _write_names(self) -> None:
        write_names(self.paths.etc, self.hostname, self.identity.machine_id)
        if os.geteuid() == 0 and self.paths.root.samefile("/"):
            socket.sethostname(self.hostname)

    @property
    def _access(self) -> AccessConfig:
        """The AccessConfig in force, or one that only has the defaults."""
        return self.configuration.current.access or AccessConfig(client_authorities=())

    def publish_trust(self) -> None:
        """Tell the gateway who the node is, whom it trusts and in which mode it is."""
        own = ServerIdentity(SERVER_NAME, self.identity.key_pem.decode(), self.identity.certificate_pem.decode())
        trust = Trust(
            self.mode, (own, *self.issuing.shown), self.client_authorities, tuple(self._access.revoked_serials)
        )
        write_trust(self.paths.gateway_trust, trust, group=paths.UID_GATEWAY if os.geteuid() == 0 else None)
        if (
            self.api_answers
        ):  # before that it reads the file anyway, and a SIGHUP to a Python that is starting would end it
            self.spawn(self._hang_up_gateway(), "hang up")

    async def _hang_up_gateway(self) -> None:
        """Have the gateway look at its open calls at once; without a word it does so within a second."""
        try:
            await self.supervisor.hang_up("gateway")
        except (BasaltError, OSError) as error:
            print(f"gateway: no SIGHUP: {error}", flush=True)

    async def _look_after_identity(self) -> Status:
        """The server certificates; trouble with the identity itself is said first."""
        status = await self.issuing.reconcile()
        return status if self._identity_trouble is CONVERGED else self._identity_trouble

    def _audit_written(self, error: OSError | None) -> None:
        if error is None:
            self.board.post("audit", CONVERGED)
        else:
            self.board.post(
                "audit",
                failed(f"the audit log cannot be written: {error}", "records are kept in memory; look at STATE"),
            )

    # --- tasks of the end

    async def stop_services(self) -> None:
        """Stop what machined has started, in the reverse order."""
        if self.containers:
            await self.containers.workloads.stop_all()
        for name in ("containerd", "chronyd"):
            service = find(name)
            if service and (await self.supervisor.status(service)).wanted:
                await self.supervisor.stop(name, power.SERVICE_STOP_MS)

    async def note_time(self) -> None:
        """The last time known, for a clock that may stop while the node is off; not one that is in doubt."""
        if (await self._look_at_clock()) is CONVERGED:
            storage.save_time(self.paths.clock)

    async def end_supervision(self) -> None:
        """End all services, machined among them; PID 1 does the rest."""
        await self.supervisor.end()
