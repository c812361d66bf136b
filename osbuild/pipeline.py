"""From a profile to the graph of an image: which steps there are and how they hang together."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basalt.errors import UsageError
from osbuild import paths
from osbuild.graph import Step
from osbuild.lock.model import DebianLock, WheelLock, load_debian, load_wheels
from osbuild.profile import Profile, load
from osbuild.steps.debian_part import debian_step
from osbuild.steps.disk import disk_step, qcow2_step
from osbuild.steps.kernel import kernel_steps
from osbuild.steps.manifest import manifest_step
from osbuild.steps.modules_part import modules_step
from osbuild.steps.os_part import os_step
from osbuild.steps.pause_part import pause_step
from osbuild.steps.python_part import python_step
from osbuild.steps.root import root_step
from osbuild.steps.trees import pool_step, tree_step
from osbuild.steps.uki import uki_step

FORMATS = ("raw", "qcow2")


@dataclass(frozen=True)
class Image:
    """The steps of one image, and the values that went into them."""

    name: str
    profile: Profile
    identity: Mapping[str, Any]
    debian: DebianLock
    wheels: WheelLock
    tools: Step
    kernel: Step
    root: Step
    uki: Step
    disk: Step
    qcow2: Step
    manifest: Step

    def targets(self, formats: tuple[str, ...]) -> list[Step]:
        """The steps that *formats* ask for; the rest follows from them."""
        return [self.manifest, *([self.qcow2] if "qcow2" in formats else [])]


def project_version() -> str:
    """The version in ``pyproject.toml``, which an image carries unless it is given another."""
    version: str = tomllib.loads((paths.PROJECT / "pyproject.toml").read_text())["project"]["version"]
    return version


def build_epoch(lock: DebianLock) -> int:
    """Time stamp of everything built: ``$SOURCE_DATE_EPOCH``, else when the archive signed what the lock holds.

    :raises UsageError: when the variable is no number.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not (given.isdecimal() and len(given) <= 10):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is '{given}'", why="it must be seconds since 1970", remedy="Unset or correct it"
        )
    return int(given) if given else lock.epoch


def kernel_graph(profile: Profile, debian: DebianLock) -> Step:
    """The steps that end in *profile*'s kernel."""
    return kernel_steps(tree_step(debian, "kernel-tools"), pool_step(debian, "kernel-source"), profile.kernel.fragments)


def image_graph(
    name: str, *, version: str | None = None, client_ca: str | None = None, config: str | None = None
) -> Image:
    """The graph of profile *name*.

    :param name: of a profile, or the path of a profile file.
    :param version: what the image calls itself; letters, digits and ``.~-`` as systemd-boot sorts them.
    :param client_ca: PEM of certificate authorities whose clients the node accepts from the first contact on.
    :param config: configuration documents that a node without one takes up.
    :raises UsageError: when profile, locks or version are wrong.
    """
    named, debian, wheels = load(name), load_debian(), load_wheels()
    profile = named.settings
    chosen = version or project_version()
    if not all(c.isascii() and (c.isalnum() or c in ".~-") for c in chosen) or len(chosen) > 40:
        # It becomes part of a file name on FAT, where "_" and "+" separate it from what systemd-boot counts.
        raise UsageError(
            f"'{chosen}' is no version",
            why="letters, digits and . ~ - only, at most 40",
            remedy="Give another --version",
        )
    epoch = build_epoch(debian)
    identity = {"version": chosen, "profile": named.name, "build_epoch": epoch, "arch": "x86_64"}
    tools, pool = tree_step(debian, "image-tools"), pool_step(debian, "image")
    python = python_step(tools, pool, debian, wheels, to_table(profile.python))
    kernel = kernel_graph(profile, debian)
    base = {
        "debian": debian_step(pool, python, debian, profile.packages, profile.links, profile.authorities),
        "modules": modules_step(kernel),
        "pause": pause_step(pool, debian),
        "python": python,
    }
    own = os_step(tools, identity, client_ca, config, named.overlay)
    root = root_step(tools, base, own, to_table(profile.root), epoch)
    uki = uki_step(tools, kernel, root, identity, profile.boot.cmdline)
    disk = disk_step(tools, root, uki, identity, to_table(profile.disk))
    manifest = manifest_step(root, uki, kernel, disk, identity)
    qcow2 = qcow2_step(tools, disk)
    return Image(named.name, profile, identity, debian, wheels, tools, kernel, root, uki, disk, qcow2, manifest)


def to_table(struct: Any) -> dict[str, Any]:
    """A struct of the profile as plain values, for a step's parameters."""
    import msgspec

    table: dict[str, Any] = msgspec.to_builtins(struct)
    return table
