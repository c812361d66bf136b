"""The concern "registries": mirrors and authorities of image registries, as containerd's ``config_path`` wants them.

One directory per registry with a ``hosts.toml`` (containerd 1.7, docs/hosts.md), read at every pull: a change takes effect with the
next one and restarts nothing. containerd takes the first directory that exists, ``HOST`` or else ``_default``, and nothing from the
other. So a registry that has a directory for its authority alone gets the mirrors of ``*`` written into it as well.

Credentials are not here but in containerd's own file, see :mod:`machined.containerd`.
"""

from __future__ import annotations

import hashlib
import posixpath
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from basalt.config.documents import RegistryConfig
from basalt.toml import quoted
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


def certificate_name(pem: str) -> str:
    """The file name of an authority: it follows from the content, so a file never changes under a reader."""
    return f"{hashlib.blake2b(pem.encode(), digest_size=16).hexdigest()}.pem"


class Endpoint(Struct, frozen=True):
    """Where images of a registry are had.

    :param url: as it was configured; of the registry itself, https:// and its host.
    :param mirror: whether it stands in for the registry.
    :param override_path: the path of *url* is complete.
    :param authorities: certificates (PEM) that vouch for its own besides the public ones.
    """

    url: str
    mirror: bool
    override_path: bool = False
    authorities: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The host that is spoken to, with its port if the address has one."""
        return urlsplit(self.url).netloc

    @property
    def root(self) -> str:
        """What the paths of the registry's API are added to, as containerd makes it (remotes/docker/config/hosts.go)."""
        parts = urlsplit(self.url)
        path = posixpath.normpath(f"/{parts.path}").strip("/")
        end = "" if self.override_path or f"/{path}".endswith("/v2") else "/v2"
        return f"{parts.scheme}://{parts.netloc}{path and f'/{path}'}{end}"


def endpoints(config: RegistryConfig | None, registry: str) -> tuple[Endpoint, ...]:
    """Where images of *registry* are had, in the order in which they are asked for."""
    config = config or RegistryConfig()
    mirrors = {mirror.registry: mirror for mirror in config.mirrors}
    mirror = mirrors.get(registry) or mirrors.get(ANY)
    found = []
    if mirror:
        for url in dict.fromkeys(mirror.endpoints):
            authorities = _authorities(config, urlsplit(url).netloc)
            found.append(Endpoint(url, True, mirror.override_path, authorities))
    if mirror is None or mirror.fallback:
        host = SPOKEN_TO.get(registry, registry)
        found.append(Endpoint(f"https://{host}", False, False, _authorities(config, host, registry)))
    return tuple(found)


def _authorities(config: RegistryConfig, host: str, alias: str = "") -> tuple[str, ...]:
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    # A certificate knows nothing of ports: an authority for a host without one serves all of them.
    names = dict.fromkeys((host, bare, alias, ANY))
    return tuple(dict.fromkeys(each.certificate for name in names for each in config.authorities if each.host == name))


def plan(config: RegistryConfig | None, directory: Path) -> Registries:
    """What *config* means for containerd, below *directory*."""
    if config is None:
        return Registries({}, {})
    named = [mirror.registry for mirror in config.mirrors] + [authority.host for authority in config.authorities]
    files = directory / AUTHORITIES
    hosts = {
        DEFAULT if registry == ANY else registry: _hosts_toml(endpoints(config, registry), files)
        for registry in dict.fromkeys(named)
    }
    return Registries(hosts, {certificate_name(each.certificate): each.certificate for each in config.authorities})


def _hosts_toml(asked: Sequence[Endpoint], files: Path) -> str:
    *before, last = asked
    lines = []
    if last.mirror:
        # containerd always asks "server" in the end, and where there is none the registry itself: so it is the last mirror.
        lines += [f"server = {quoted(last.url)}", f"capabilities = {MIRROR_CAPABILITIES}"]
    lines += _details(last, files)
    lines.append("[host]")  # containerd 1.7 refuses a file without it, also when there is no host
    for endpoint in before:
        lines += [f"[host.{quoted(endpoint.url)}]", f"capabilities = {MIRROR_CAPABILITIES}"]
        lines += _details(endpoint, files)
    return "".join(f"{line}\n" for line in lines)


def _details(endpoint: Endpoint, files: Path) -> list[str]:
    lines = ["override_path = true"] if endpoint.override_path else []
    if endpoint.authorities:
        found = ", ".join(quoted(str(files / certificate_name(pem))) for pem in endpoint.authorities)
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
