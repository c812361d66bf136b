"""containerd's configuration: CRI, CDI and NRI on, data on DATA, cgroups version 2 through runc."""

from __future__ import annotations

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
