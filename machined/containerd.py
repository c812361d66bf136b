"""The concern "containers": containerd with CRI, CDI and NRI on, its data on DATA, cgroups version 2 through runc.

Mirrors and authorities of registries are files that containerd reads at every pull (:mod:`machined.registries`). Credentials have no
place in those: they are in containerd's own file, which is therefore for root alone, and a change of theirs restarts containerd.
Containers do not notice that: their shims are processes of their own.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from basalt.config.documents import RegistryConfig, ServiceConfig
from basalt.toml import dumped, merged, quoted
from machined import paths
from machined.containernet import IMAGE_PLUGINS, link_plugins, write_configuration
from machined.network.names import put
from machined.reconcile import CONVERGED, State, Status, waiting
from machined.registries import SPOKEN_TO
from machined.runtime.archives import import_archive
from machined.runtime.client import Runtime, RuntimeGoneError, explained
from machined.services import find
from machined.servicesettings import ServiceKeeper
from machined.wire import cri_pb2 as cri

PAUSE = "basalt.local/pause:1"  # the sandbox's own image (osbuild.steps.pause_part)
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
  # from the image itself: no registry is asked before the first container
  sandbox_image = "@pause@"
  disable_hugetlb_controller = false
  # a container that does not run as root can open the devices that it is given
  device_ownership_from_security_context = true
  # without a byte for so long, a download is given up
  image_pull_progress_timeout = "60s"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
@handlers@  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/run/basalt/registries"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
  plugin_path = "/usr/lib/basalt/nri"
  plugin_config_path = "/run/basalt/nri"
  socket_path = "/run/nri/nri.sock"
"""

_BINARIES = {"runc": "/usr/sbin/runc", "crun": "/usr/bin/crun"}


def _handler(name: str, binary: str, network: str = "") -> str:
    """A runtime handler. *network*: the directory of its CNI configuration, if it is not everybody's."""
    table = f'    [{_CRI}.containerd.runtimes.{name}]\n      runtime_type = "io.containerd.runc.v2"\n'
    if network:
        table += f'      cni_conf_dir = "{network}"\n      cni_max_conf_num = 1\n'
    return (
        f"{table}      [{_CRI}.containerd.runtimes.{name}.options]\n"
        f'        BinaryName = "{binary}"\n'
        # the driver that works without systemd; the cgroup tree is version 2 alone
        "        SystemdCgroup = false\n"
    )


def _handlers() -> str:
    """runc and crun as every CRI client knows them, and both again for workloads with a network of their own."""
    plain = [_handler(name, binary) for name, binary in _BINARIES.items()]
    return "".join(
        [*plain, *(_handler(f"bridge-{name}", binary, "/run/basalt/cni/bridge") for name, binary in _BINARIES.items())]
    )


def containerd_toml(registry: RegistryConfig | None, settings: str = "") -> str:
    """The file that containerd is started with.

    :param settings: TOML of the operator's, laid over it; what it must not touch is for the configuration's rules to say.

    ``registry.configs.HOST.auth`` may stand beside ``config_path`` as long as it has no ``tls`` (containerd 1.7,
    docs/cri/registry.md); HOST is the host that is spoken to, which for docker.io has another name.
    """
    lines = [_TEMPLATE.replace("@pause@", PAUSE).replace("@handlers@", _handlers())]
    named = {auth.host: auth for auth in (registry.auth if registry else ())}
    spoken_to = {SPOKEN_TO[host]: auth for host, auth in named.items() if host in SPOKEN_TO}
    for host, auth in {**spoken_to, **named}.items():  # what a host is given by its own name counts
        lines.append(f"\n[{_CRI}.registry.configs.{quoted(host)}.auth]\n")
        fields = {"username": auth.username, "password": auth.password, "identitytoken": auth.identity_token}
        lines += [f"  {key} = {quoted(value)}\n" for key, value in fields.items() if value is not None]
    text = "".join(lines)
    return dumped(merged(tomllib.loads(text), tomllib.loads(settings))) if settings else text


class ContainersReconciler:
    """Owns containerd.

    :param data_is_there: whether DATA is mounted, without which containerd has nowhere to keep anything.
    :param look_again: asks for another look.
    :param runtime: the connection to it.
    """

    def __init__(
        self,
        node: paths.Paths,
        keeper: ServiceKeeper,
        *,
        config: Callable[[], RegistryConfig | None],
        settings: Callable[[], ServiceConfig | None],
        data_is_there: Callable[[], bool],
        look_again: Callable[[], None],
        runtime: Runtime,
    ) -> None:
        self._node = node
        self._conf = node.containerd_conf
        self._program = node.root / paths.CONTAINERD.lstrip("/")
        self._socket = node.containerd_socket
        self._runtime = runtime
        self._keeper = keeper
        self._config = config
        self._settings = settings
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
        settings = self._settings()
        conf = containerd_toml(self._config(), settings.settings or "" if settings else "")
        put(self._conf, conf, mode=0o600)
        write_configuration(self._node)
        await asyncio.to_thread(
            link_plugins, self._node.root / IMAGE_PLUGINS.lstrip("/"), self._node.data / "opt/cni/bin"
        )
        status = await self._keeper.keep(service, wanted=True, configuration=conf)
        try:
            if status.up and self._socket.exists() and await self._has_pause():
                return CONVERGED
        except RuntimeGoneError:
            pass
        asyncio.get_running_loop().call_later(START_POLL_S, self._look_again)
        return waiting("containerd is starting")

    async def _has_pause(self) -> bool:
        """Have the sandbox's image there."""
        with explained("cannot look for the sandbox's image"):
            request = cri.ImageStatusRequest(image=cri.ImageSpec(image=PAUSE))
            if (await self._runtime.cri_images.ImageStatus(request)).image.id:
                return True
        await import_archive(self._runtime, _chunks(self._node.pause_archive))
        return True


async def _chunks(archive: Path) -> AsyncIterator[bytes]:
    with archive.open("rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, 256 * 1024):
            yield chunk
