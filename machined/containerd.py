"""The concern "containers": containerd with CRI, CDI and NRI on, its data on DATA, cgroups version 2 through runc.

Mirrors and authorities of registries are files that containerd reads at every pull (:mod:`machined.registries`). Credentials have no
place in those: they are in containerd's own file, which is therefore for root alone, and a change of theirs restarts containerd.
Containers do not notice that: their shims are processes of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from basalt.config.documents import RegistryConfig
from machined import paths
from machined.network.names import put
from machined.reconcile import CONVERGED, State, Status, waiting
from machined.registries import SPOKEN_TO, quoted
from machined.services import find
from machined.servicesettings import ServiceKeeper

START_POLL_S = 1.0  # containerd announces nothing when it listens: its socket is looked for

_CRI = 'plugins."io.containerd.grpc.v1.cri"'

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
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/run/basalt/registries"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
  plugin_path = "/usr/lib/basalt/nri"
  plugin_config_path = "/run/basalt/nri"
  socket_path = "/run/nri/nri.sock"
"""


def containerd_toml(registry: RegistryConfig | None) -> str:
    """The file that containerd is started with.

    ``registry.configs.HOST.auth`` may stand beside ``config_path`` as long as it has no ``tls`` (containerd 1.7,
    docs/cri/registry.md); HOST is the host that is spoken to, which for docker.io has another name.
    """
    lines = [_TEMPLATE]
    for auth in registry.auth if registry else ():
        for host in dict.fromkeys((auth.host, SPOKEN_TO.get(auth.host, auth.host))):
            lines.append(f"\n[{_CRI}.registry.configs.{quoted(host)}.auth]\n")
            fields = {"username": auth.username, "password": auth.password, "identitytoken": auth.identity_token}
            lines += [f"  {key} = {quoted(value)}\n" for key, value in fields.items() if value is not None]
    return "".join(lines)


class ContainersReconciler:
    """Owns containerd.

    :param data_is_there: whether DATA is mounted, without which containerd has nowhere to keep anything.
    :param look_again: asks for another look.
    """

    def __init__(
        self,
        node: paths.Paths,
        keeper: ServiceKeeper,
        *,
        config: Callable[[], RegistryConfig | None],
        data_is_there: Callable[[], bool],
        look_again: Callable[[], None],
    ) -> None:
        self._conf = node.containerd_conf
        self._program = node.root / paths.CONTAINERD.lstrip("/")
        self._socket = node.root / "run/containerd/containerd.sock"
        self._keeper = keeper
        self._config = config
        self._data_is_there = data_is_there
        self._look_again = look_again

    async def reconcile(self) -> Status:
        """One look."""
        service = find("containerd")
        if service is None or not self._program.exists():
            return waiting("this image has no containerd", "build one from a profile that has it")
        if not self._keeper.enabled("containerd"):
            await self._keeper.keep(service, wanted=False)
            return Status(State.CONVERGED, "containerd is switched off: no container can be started")
        if not self._data_is_there():
            return waiting("DATA is not mounted", "containerd starts once it is")
        conf = containerd_toml(self._config())
        put(self._conf, conf, mode=0o600)
        status = await self._keeper.keep(service, wanted=True, configuration=conf)
        if not status.up or not self._socket.exists():
            asyncio.get_running_loop().call_later(START_POLL_S, self._look_again)
            return waiting("containerd is starting")
        return CONVERGED
