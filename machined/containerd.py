"""The concern "containers": containerd with CRI, CDI and NRI on, its data on DATA, cgroups version 2 through runc."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from machined import paths
from machined.network.names import put
from machined.reconcile import CONVERGED, Status, waiting
from machined.s6 import Supervisor
from machined.services import find

START_POLL_S = 1.0  # containerd announces nothing when it listens: its socket is looked for

_TEMPLATE = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = -900

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  # CDI and NRI are off by default in containerd 1.7
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi", "/run/cdi"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        # the driver that works without systemd; the cgroup tree is version 2 alone
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/cni/net.d"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
  plugin_path = "/usr/lib/basalt/nri"
  plugin_config_path = "/run/basalt/nri"
  socket_path = "/run/nri/nri.sock"
"""


def containerd_toml() -> str:
    """The file that containerd is started with. RegistryConfig will add to it (registries' mirrors and authorities)."""
    return _TEMPLATE


class ContainersReconciler:
    """Owns containerd.

    :param data_is_there: whether DATA is mounted, without which containerd has nowhere to keep anything.
    :param look_again: asks for another look.
    """

    def __init__(
        self,
        node: paths.Paths,
        supervisor: Supervisor,
        *,
        data_is_there: Callable[[], bool],
        look_again: Callable[[], None],
    ) -> None:
        self._conf = node.containerd_conf
        self._program = node.root / paths.CONTAINERD.lstrip("/")
        self._socket = node.root / "run/containerd/containerd.sock"
        self._supervisor = supervisor
        self._data_is_there = data_is_there
        self._look_again = look_again

    async def reconcile(self) -> Status:
        """One look."""
        service = find("containerd")
        if service is None or not self._program.exists():
            return waiting("this image has no containerd", "build one from a profile that has it")
        if not self._data_is_there():
            return waiting("DATA is not mounted", "containerd starts once it is")
        changed = put(self._conf, containerd_toml())
        status = await self._supervisor.status(service)
        if not status.wanted:
            await self._supervisor.start("containerd")
        elif changed:
            await self._supervisor.restart("containerd")
        if not status.up or not self._socket.exists():
            asyncio.get_running_loop().call_later(START_POLL_S, self._look_again)
            return waiting("containerd is starting")
        return CONVERGED
