"""The concern "registries": mirrors and authorities of image registries, as containerd's ``config_path`` wants them.

One directory per registry with a ``hosts.toml`` (containerd 1.7, docs/hosts.md), read at every pull: a change takes effect with the
next one and restarts nothing. containerd takes the first directory that exists, ``HOST`` or else ``_default``, and nothing from the
other. So a registry that has a directory for its authority alone gets the mirrors of ``*`` written into it as well.

Credentials are not here but in containerd's own file, see :mod:`machined.containerd`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from basalt.config.documents import RegistryConfig, RegistryMirror
from machined import paths
from machined.network.names import put
from machined.reconcile import CONVERGED, Status

ANY = "*"
DEFAULT = "_default"  # containerd's name for every registry without a directory of its own
AUTHORITIES = ".authorities"  # no registry has this name: a host begins with a letter or digit
SPOKEN_TO = {"docker.io": "registry-1.docker.io"}  # where a registry's images are under another name than its own

MIRROR_CAPABILITIES = '["pull", "resolve"]'  # a mirror is never pushed to


class Registries(Struct, frozen=True):
    """What is to lie below ``config_path``: hosts.toml by directory, and authorities' certificates by file name."""

    hosts: dict[str, str]
    authorities: dict[str, str]


def quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are a part of TOML's; DEL alone TOML wants escaped and JSON does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def certificate_name(pem: str) -> str:
    """The file name of an authority: it follows from the content, so a file never changes under a reader."""
    return f"{hashlib.blake2b(pem.encode(), digest_size=16).hexdigest()}.pem"


def plan(config: RegistryConfig | None, directory: Path) -> Registries:
    """What *config* means for containerd, below *directory*."""
    if config is None:
        return Registries({}, {})
    mirrors = {mirror.registry: mirror for mirror in config.mirrors}
    authorities: dict[str, list[str]] = {}
    for authority in config.authorities:
        authorities.setdefault(authority.host, []).append(authority.certificate)
    hosts = {}
    for registry in dict.fromkeys([*mirrors, *authorities]):
        mirror = mirrors.get(registry) or mirrors.get(ANY)
        name = DEFAULT if registry == ANY else registry
        hosts[name] = _hosts_toml(registry, mirror, authorities, directory / AUTHORITIES)
    return Registries(hosts, {certificate_name(pem): pem for pems in authorities.values() for pem in pems})


def _hosts_toml(registry: str, mirror: RegistryMirror | None, authorities: dict[str, list[str]], files: Path) -> str:
    endpoints = list(dict.fromkeys(mirror.endpoints)) if mirror else []
    override = mirror is not None and mirror.override_path
    lines = []
    if mirror and not mirror.fallback:
        # containerd always asks "server" in the end, and where there is none the registry itself: so it is the last mirror.
        last = endpoints.pop()
        lines += [f"server = {quoted(last)}", f"capabilities = {MIRROR_CAPABILITIES}"]
        lines += _details(urlsplit(last).netloc, override, authorities, files)
    else:
        lines += _details(SPOKEN_TO.get(registry, registry), False, authorities, files, registry)
    lines.append("[host]")  # containerd 1.7 refuses a file without it, also when there is no host
    for endpoint in endpoints:
        lines += [f"[host.{quoted(endpoint)}]", f"capabilities = {MIRROR_CAPABILITIES}"]
        lines += _details(urlsplit(endpoint).netloc, override, authorities, files)
    return "".join(f"{line}\n" for line in lines)


def _details(
    host: str, override_path: bool, authorities: dict[str, list[str]], files: Path, alias: str = ""
) -> list[str]:
    lines = ["override_path = true"] if override_path else []
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    # A certificate knows nothing of ports: an authority for a host without one serves all of them.
    names = dict.fromkeys((host, bare, alias, ANY))
    pems = dict.fromkeys(pem for name in names for pem in authorities.get(name, ()))
    if pems:
        found = ", ".join(quoted(str(files / certificate_name(pem))) for pem in pems)
        lines.append(f"ca = [{found}]")
    return lines


def _remove_others(directory: Path, wanted: Iterable[str]) -> None:
    for entry in directory.iterdir():
        if entry.name in wanted:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


class RegistriesReconciler:
    """Owns the files below containerd's ``config_path``."""

    def __init__(self, node: paths.Paths, *, config: Callable[[], RegistryConfig | None]) -> None:
        self._directory = node.registries
        self._config = config

    async def reconcile(self) -> Status:
        """One look. Authorities first, and gone last: no hosts.toml ever names one that is not there."""
        wanted = plan(self._config(), self._directory)
        authorities = self._directory / AUTHORITIES
        authorities.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, pem in wanted.authorities.items():
            put(authorities / name, pem)
        for name, text in wanted.hosts.items():
            (self._directory / name).mkdir(mode=0o755, exist_ok=True)
            put(self._directory / name / "hosts.toml", text)
        _remove_others(self._directory, {*wanted.hosts, AUTHORITIES})
        _remove_others(authorities, wanted.authorities)
        return CONVERGED
