"""A large configuration file: one document of every kind that may stand once, and volumes for the rest."""

from __future__ import annotations

import base64

from basalt.config.documents import API_VERSION

_HEAD = f"---\napiVersion: {API_VERSION}\nkind: "


def documents(count: int) -> bytes:
    """A valid configuration of *count* documents (at least 8), nearly all of them VolumeConfig."""
    volumes = (_volume(number) for number in range(count - 8))
    return "".join([*_SINGLE, *volumes]).encode()


def _volume(number: int) -> str:
    return (
        f"{_HEAD}VolumeConfig\nname: volume-{number}\n"
        f"disk:\n  serial: S6Z2NX0R{number:06}\n  model: Example NVMe 4 TB\n  sizeMin: 3TB\n  sizeMax: 4TiB\n"
        f"existingData: {'wipe' if number % 2 else 'refuse'}\nreadOnly: {'true' if number % 3 else 'false'}\n"
    )


def _certificate(seed: int) -> str:
    body = base64.b64encode(bytes((seed + at) % 256 for at in range(480))).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    framed = ["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----"]
    return "|\n" + "".join(f"    {line}\n" for line in framed)


_LINKS = "".join(
    f"- name: eth{number}\n  mtu: 9000\n  addresses: [10.{number}.0.2/24, '2001:db8:{number}::2/64']\n"
    f"  routes: [{{to: 10.{number}.128.0/17, via: 10.{number}.0.1}}]\n"
    f"- name: vlan{number}\n  vlan: {{link: eth{number}, id: {number + 100}}}\n  dhcp4: true\n"
    for number in range(4)
)
_RULES = "".join(
    f"- name: service-{number}\n  ports: ['{8000 + number}', '{30000 + number}-{30100 + number}']\n"
    f"  sources: [10.{number}.0.0/16, '2001:db8:{number}::/48']\n"
    for number in range(16)
)
_SINGLE = (
    f"{_HEAD}MachineConfig\nhostname: node-1\nlabels: {{example.org/rack: r12}}\ntopology: {{rack: r12, zone: a}}\n"
    "sysctls: {net.core.somaxconn: 4096, vm.max_map_count: 262144}\n"
    "modules: [{name: br_netfilter}, {name: nvme_core, parameters: {io_timeout: 60}}]\n"
    "logging: {destinations: [{endpoint: 'tcp://logs.example.org:5140'}]}\n",
    f"{_HEAD}NetworkConfig\nlinks:\n{_LINKS}dns: {{servers: [10.0.0.53], search: [example.org]}}\n",
    f"{_HEAD}TimeConfig\nservers: [{{address: time.example.org, nts: true}}]\n",
    f"{_HEAD}AccessConfig\nclientAuthorities:\n- {_certificate(0)}- {_certificate(7)}"
    f"revokedSerials: [{', '.join(f'4a1f{number:04x}' for number in range(1, 33))}]\n",
    f"{_HEAD}RegistryConfig\nmirrors: [{{registry: docker.io, endpoints: ['https://mirror.example.org/v2']}}]\n"
    "auth: [{host: mirror.example.org, username: puller, password: correct horse}]\n",
    f"{_HEAD}FirewallConfig\napiSources: [10.0.0.0/8]\nrules:\n{_RULES}",
    f"{_HEAD}ServiceConfig\nname: containerd\nmemoryMax: 2GiB\nenvironment: {{HTTPS_PROXY: 'http://proxy.example.org:3128'}}\n",
    f"{_HEAD}ServiceConfig\nname: chronyd\ncpuWeight: 50\n",
)
