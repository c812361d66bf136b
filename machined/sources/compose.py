"""From what a source holds to a whole, checked configuration. Pure."""

from __future__ import annotations

import msgspec

from basalt.config import Configuration, decode, parse, render, tree
from basalt.config.documents import MachineConfig
from basalt.config.tree import Scalar
from basalt.config.walk import Walker
from machined.sources.model import Documents


def configuration_of(found: Documents) -> Configuration:
    """The configuration that *found* means, with the hostname and the network of its surroundings where it has none.

    :raises ConfigError: with every problem of it.
    """
    configuration = _read(found) if found.data else Configuration()
    added: dict[str, object] = {}
    if configuration.machine is None and found.hostname:
        added["machine"] = MachineConfig(hostname=found.hostname)
    if configuration.network is None and found.network is not None:
        added["network"] = found.network
    if not added:
        return configuration
    # What came from elsewhere was never checked: names and addresses of a cloud can be as wrong as an operator's.
    return parse(render(msgspec.structs.replace(configuration, **added)), found.name)


def _read(found: Documents) -> Configuration:
    """The documents, a MachineConfig without a hostname completed; a problem with that one stands where the document begins."""
    roots, notes = tree.read(found.data)
    for root in roots if found.hostname else ():
        if not isinstance(root, tree.Mapping) or decode.head_of(root) != decode.Head("MachineConfig"):
            continue
        name = (Scalar(root.position, "hostname", True), Scalar(root.position, found.hostname, False))
        root.entries.setdefault("hostname", name)
    return decode.configuration_of(roots, notes, found.name, Walker(found.name))
