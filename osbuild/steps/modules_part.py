"""The kernel's modules and their indices as a part of the root."""

from __future__ import annotations

import json

from osbuild.graph import Context, Step
from osbuild.parts import Part, files_below


def modules_step(kernel: Step) -> Step:
    """What *kernel* wrote below ``modules/``, a tree as it stands in the root (``usr/lib/modules/<release>``)."""
    return Step("modules", build_modules, inputs={"kernel": kernel})


def build_modules(ctx: Context) -> None:
    """Run function of :func:`modules_step`."""
    part = Part.new(ctx.out)
    kernel = ctx.input("kernel")
    release = json.loads((kernel / "kernel.json").read_text())["release"]
    source = kernel / "modules"
    for name in files_below(source):
        if not (source / name).is_symlink():  # "build" and "source" lead to the builder's directories
            part.add(source / name, f"usr/{name}", f"linux {release}")
    if any(".ko" in name for name in part.origins):
        # What the kernel runs to load a module by itself (/proc/sys/kernel/modprobe); the profile brings kmod.
        part.link("usr/sbin/modprobe", "../bin/kmod", f"linux {release}")
    part.save()
