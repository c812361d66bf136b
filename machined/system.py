"""The concerns of the machine itself, wired: kernel and watchdog early in the boot, what runs on the node once the API answers.

Each reconciler gets what it reads as functions, so that it sees the configuration of the moment and nothing of the node besides. They
are imported when their phase has come: an import costs time that the way to the API must not pay for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from machined.reconcile import State, Status

if TYPE_CHECKING:
    from basalt.config.documents import Configuration
    from machined.node import Node

KERNEL_RESYNC_S = 30.0  # a setting changed by hand sends no event
WATCHDOG_RESYNC_S = 300.0
SERVICES_RESYNC_S = 15.0  # a death is told within this; s6 has long started the service again
TIME_RESYNC_S = 10.0  # chrony tells nobody when it has synchronised
CONTAINERS_RESYNC_S = 15.0
WORKLOADS_RESYNC_S = 30.0
REGISTRIES_RESYNC_S = 60.0
VOLUMES_RESYNC_S = 10.0  # how soon a disk that is plugged in is noticed
LOGGING_RESYNC_S = 60.0


async def start_kernel(node: Node) -> None:
    """Begin to look after the kernel's settings and modules, and the watchdog's timeout."""
    from machined.kernel import KernelReconciler
    from machined.watchdog import WatchdogReconciler

    kernel = KernelReconciler(node.paths, config=lambda: node.configuration.current.machine)
    node.reconcile("kernel", kernel.reconcile, KERNEL_RESYNC_S)
    watchdog = WatchdogReconciler(node.paths, node.watchdog, config=lambda: node.configuration.current.machine)
    node.reconcile("watchdog", watchdog.reconcile, WATCHDOG_RESYNC_S)


async def start_services(node: Node) -> None:
    """Begin to look after what runs on the node: its programs, containers, volumes, copies of the logs."""
    from machined.containerd import ContainersReconciler
    from machined.containers import Containers
    from machined.forwarding.reconciler import LoggingReconciler
    from machined.registries import RegistriesReconciler
    from machined.runtime.client import Runtime
    from machined.servicesettings import ServiceKeeper, settings_of
    from machined.timesync import TimeReconciler
    from machined.volumes.reconciler import VolumesReconciler

    def current() -> Configuration:
        return node.configuration.current

    keeper = ServiceKeeper(node.paths, node.supervisor, config=current)
    node.reconcile("services", keeper.reconcile, SERVICES_RESYNC_S)
    timekeeper = TimeReconciler(
        node.paths,
        keeper,
        config=lambda: current().time,
        leases=lambda: node.network.leases if node.network else (),
        ready=lambda: node.data_settled,
    )
    node.reconcile("time", timekeeper.reconcile, TIME_RESYNC_S)
    registries = RegistriesReconciler(node.paths, config=lambda: current().registry)
    node.reconcile("registries", registries.reconcile, REGISTRIES_RESYNC_S)
    runtime = Runtime(node.paths.containerd_socket)
    node.on_close(runtime.close)
    containers = ContainersReconciler(
        node.paths,
        keeper,
        config=lambda: current().registry,
        settings=lambda: settings_of(current(), "containerd"),
        data_is_there=lambda: node.data_is_there,
        look_again=lambda: node.trigger("containers"),
        runtime=runtime,
    )

    async def look_at_containers() -> Status:
        status = await containers.reconcile()
        if status.state is State.CONVERGED and node.board.state_of("containers") is not State.CONVERGED:
            node.trigger("workloads")
        return status

    node.reconcile("containers", look_at_containers, CONTAINERS_RESYNC_S)
    node.containers = Containers.of(
        node.paths,
        runtime,
        config=lambda: current().workloads,
        registry=lambda: current().registry,
        ready=lambda: node.board.state_of("containers") is State.CONVERGED,
        changed=lambda: node.trigger("workloads"),
    )
    node.on_close(node.containers.workloads.close)
    node.reconcile("workloads", node.containers.workloads.reconcile, WORKLOADS_RESYNC_S)
    volumes = VolumesReconciler(
        node.paths,
        config=lambda: current().volumes,
        boot_disk=lambda: node.storage.disk_directory.name,
        data_is_there=lambda: node.data_is_there,
    )
    node.reconcile("volumes", volumes.reconcile, VOLUMES_RESYNC_S)
    logging = LoggingReconciler(
        node.paths,
        config=lambda: current().machine,
        hostname=lambda: node.hostname,
        changed=lambda: node.trigger("logging"),
    )
    node.on_close(logging.close)
    node.reconcile("logging", logging.reconcile, LOGGING_RESYNC_S)
