"""What stands on the configuration drives of clouds: ``cidata`` (cloud-init's NoCloud) and ``config-2`` (OpenStack). Pure.

Only their places and their facts about the machine are taken over: what they carry for the operating system (``user-data``) are
configuration documents here, not cloud-init's own language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from basalt.config import tree
from basalt.config.documents import NetworkConfig
from machined.sources.model import CIDATA, CONFIG_2, Damaged, Documents, Material
from machined.sources.network_data import network_config

USER_DATA, META_DATA = "user-data", "meta-data"
OS_USER_DATA = "openstack/latest/user_data"
OS_META_DATA = "openstack/latest/meta_data.json"
OS_NETWORK_DATA = "openstack/latest/network_data.json"
CLIENT_CA = "client-ca.pem"

FILES: dict[str, tuple[str, ...]] = {
    CIDATA: (USER_DATA, META_DATA, CLIENT_CA),
    CONFIG_2: (OS_USER_DATA, OS_META_DATA, OS_NETWORK_DATA, CLIENT_CA),
}


def material(label: str, files: Mapping[str, bytes], cards: Mapping[str, str]) -> Material:
    """What the drive labelled *label* holds.

    :param files: those of :data:`FILES` that are there.
    :param cards: the node's network cards: MAC address → name.
    """
    authority = files.get(CLIENT_CA)
    try:
        found = _cidata(files) if label == CIDATA else _config_2(files, cards)
    except ValueError as error:
        return Material(Damaged(str(error)), authority)
    name = USER_DATA if label == CIDATA else OS_USER_DATA
    note = "" if found else f"the drive is there and has no {name}"
    return Material(found, authority, note)


def _cidata(files: Mapping[str, bytes]) -> Documents | None:
    data = _documents(files, USER_DATA)
    return Documents(data, f"{CIDATA} {USER_DATA}", _local_hostname(files.get(META_DATA, b""))) if data else None


def _config_2(files: Mapping[str, bytes], cards: Mapping[str, str]) -> Documents | None:
    data = _documents(files, OS_USER_DATA)
    network = _network(files, cards)
    if not data and network is None:
        return None
    return Documents(data, f"{CONFIG_2} {OS_USER_DATA}", _hostname(files.get(OS_META_DATA, b"")), network)


def _documents(files: Mapping[str, bytes], name: str) -> bytes:
    """The documents, empty when there are none.

    :raises ValueError: it is something for cloud-init.
    """
    data = files.get(name, b"")
    first = data.lstrip()[:64].split(b"\n")[0].strip()
    if first == b"#cloud-config" or first.startswith((b"#!", b"#cloud-boothook", b"#include", b"## template:")):
        raise ValueError(f"{name} is for cloud-init ({first.decode(errors='replace')}); this node takes documents")
    return data if data.strip() else b""


def _network(files: Mapping[str, bytes], cards: Mapping[str, str]) -> NetworkConfig | None:
    if OS_NETWORK_DATA not in files:
        return None
    try:
        network = network_config(files[OS_NETWORK_DATA], cards)
    except ValueError as error:
        raise ValueError(f"{OS_NETWORK_DATA}: {error}") from error
    return network if network.links else None


def _hostname(data: bytes) -> str:
    """``hostname`` of meta_data.json, its first label."""
    if not data:
        return ""
    try:
        described = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{OS_META_DATA}: {error}") from error
    name = described.get("hostname") if isinstance(described, dict) else None
    return _label(name) if isinstance(name, str) else ""


def _local_hostname(data: bytes) -> str:
    """``local-hostname`` of meta-data (YAML, or JSON, which is YAML), its first label."""
    roots, notes = tree.read(data)
    if notes:
        raise ValueError(f"{META_DATA}:{notes[0].position.line}: {notes[0].found}")
    for root in roots:
        entry = root.entries.get("local-hostname") if isinstance(root, tree.Mapping) else None
        if entry and isinstance(entry[1], tree.Scalar) and not entry[1].is_null:
            return _label(entry[1].text)
    return ""


def _label(name: str) -> str:
    """Clouds give names with their domain; a hostname here is one label."""
    return name.strip().partition(".")[0]
