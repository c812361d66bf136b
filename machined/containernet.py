"""The network of workloads that have one of their own: CNI configurations, and the plugins where CNI looks for them.

Workloads use runtime handlers whose configuration directory is machined's, so ``/etc/cni/net.d`` stays empty for whoever runs a
cluster: a configuration of ours there would make a kubelet believe that its network is ready. ``/opt/cni/bin`` is on DATA, because
network providers install programs there; the plugins of the image are links in it that are put right at each start.
"""

from __future__ import annotations

import json
from pathlib import Path

from machined import paths
from machined.network.names import put

BRIDGE = "basalt0"
SUBNET = "10.213.0.0/20"  # addresses of workloads; never seen outside of the node, which translates them
CNI_VERSION = "1.0.0"

IMAGE_PLUGINS = "/usr/lib/cni"
PLUGINS = "/opt/cni/bin"
PROVIDERS = "/etc/cni/net.d"
LEASES = "/run/cni/networks"  # in memory: addresses of an earlier boot are free


def bridge_network() -> dict[str, object]:
    """The conflist of workloads (CNI specification 1.0.0; the plugins' own documentation)."""
    return {
        "cniVersion": CNI_VERSION,
        "name": "basalt",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,  # a workload reaches its own published port
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": SUBNET}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": LEASES,
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def write_configuration(node: paths.Paths) -> None:
    """Write the conflist, and have the directories there that CNI knows."""
    node.cni_bridge.mkdir(mode=0o755, parents=True, exist_ok=True)
    put(node.cni_bridge / "10-basalt.conflist", json.dumps(bridge_network(), indent=1) + "\n")
    (node.root / PROVIDERS.lstrip("/")).resolve().mkdir(mode=0o755, parents=True, exist_ok=True)


def link_plugins(source: Path, target: Path) -> None:
    """Have a link to every plugin of the image in *target*, whatever is in its place; others' programs stay."""
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    for plugin in sorted(source.iterdir()):
        link = target / plugin.name
        if link.is_symlink() and link.readlink() == plugin:
            continue
        staged = target / f".{plugin.name}.new"
        staged.unlink(missing_ok=True)
        staged.symlink_to(plugin)
        staged.rename(link)
