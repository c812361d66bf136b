"""A configuration to begin with: what nearly every node needs, and beside it, as comments, what many do."""

from __future__ import annotations

from collections.abc import Iterable

from basalt.config.decode import parse
from basalt.config.documents import AccessConfig, Configuration, FirewallConfig, MachineConfig
from basalt.config.render import render

_ABOUT = """\
# The configuration of one node. `osctl config validate FILE` checks it, `osctl apply-config -f FILE` applies it whole.
# Every field: docs/reference/configuration.md, or `osctl config schema` for an editor.
"""
_MACHINE = """\
# labels:                         # free words for people and schedulers
#   example.org/role: worker
# topology: {rack: r12, zone: a}
# sysctls:
#   net.core.somaxconn: 4096
# logging:                        # a copy of all logs
#   destinations:
#   - endpoint: tcp://logs.example.org:5140
"""
_NETWORK_AND_TIME = """\
# Without a NetworkConfig the node asks for addresses by DHCP on every network card. With one it configures the links that are
# named in it, and no others.
# ---
# apiVersion: basalt.dev/v1alpha1
# kind: NetworkConfig
# links:
# - match: {mac: '52:54:00:12:34:56'}
#   addresses: [192.0.2.10/24]
#   routes: [{to: default, via: 192.0.2.1}]
# dns: {servers: [192.0.2.53]}
# ---
# apiVersion: basalt.dev/v1alpha1
# kind: TimeConfig
# servers:
# - address: time.example.org
"""
_ACCESS = """\
# revokedSerials: []              # client certificates that are refused although they are valid
"""
_FIREWALL = """\
# What no rule lets in is dropped. The API is open to everybody who has a certificate; this narrows it further:
# apiSources: [192.0.2.0/24]
# rules:
# - name: https
#   ports: ['443']
"""


def starter(hostname: str, client_authorities: Iterable[str]) -> bytes:
    """A commented configuration file for a node.

    :param hostname: its name.
    :param client_authorities: certificates (PEM) of the authorities whose operators may command it.
    :raises ConfigError: *hostname* or a certificate is not valid.
    """
    machine = _text(Configuration(machine=MachineConfig(hostname=hostname)))
    access = _text(Configuration(access=AccessConfig(client_authorities=tuple(client_authorities))))
    firewall = _text(Configuration(firewall=FirewallConfig()))
    text = "".join(
        [_ABOUT, machine, _MACHINE, _NETWORK_AND_TIME, access, _ACCESS, firewall, _FIREWALL],
    ).encode()
    parse(text, "the new configuration")
    return text


def _text(configuration: Configuration) -> str:
    return render(configuration).decode()
