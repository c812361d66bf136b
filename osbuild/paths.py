"""Where osbuild finds its inputs and keeps its outputs: one place for each path, with its reason."""

from __future__ import annotations

import os
from pathlib import Path

# The source tree is the input of a build (profiles, fragments, machined itself), so osbuild works from a checkout.
PROJECT = Path(os.environ.get("BASALT_PROJECT", Path(__file__).resolve().parent.parent))
PROFILES = PROJECT / "profiles"
KERNEL_CONFIG = PROJECT / "kernel-config"
MACHINES = PROJECT / "qemu"
LOCKS = PROJECT / "locks"


def _base(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # XDG Base Directory Specification: relative values are to be ignored.
    return Path(value) if value.startswith("/") else Path.home() / fallback


def cache_directory() -> Path:
    """Store and downloads: ``$OSBUILD_CACHE``, else ``$XDG_CACHE_HOME/basalt``. All of it can be deleted."""
    override = os.environ.get("OSBUILD_CACHE", "")
    return Path(override).absolute() if override else _base("XDG_CACHE_HOME", ".cache") / "basalt"


def vm_directory() -> Path:
    """Disks, logs and descriptions of virtual machines: ``$XDG_STATE_HOME/basalt/vm``."""
    return _base("XDG_STATE_HOME", ".local/state") / "basalt" / "vm"
