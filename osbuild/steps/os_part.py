"""What is Basalt's own in the root: machined and the shared library as bytecode, service directories, rendered templates.

The part that changes with every edit of machined is kept apart from the interpreter and its libraries, which do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from machined.services import render_service_directories
from osbuild import paths
from osbuild.graph import Context, Step
from osbuild.parts import Part, files_below, select
from osbuild.steps.python_part import PACKAGES, compile_tree

TEMPLATES = paths.PROFILES / "templates"
# Sources of this project that run on the node; what only operators and builders use stays out.
_ON_NODE = ("basalt/**.py", "machined/**.py")
_LEFT_OUT = (
    "basalt/client/**",
    "basalt/commandline.py",
    "basalt/context*.py",
    "basalt/docs*.py",
    "basalt/output.py",
    "basalt/stubs.py",
)
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/sbin/init": "../../init",
    "etc/cni": "../run/cni",
    "etc/os-release": "../usr/lib/os-release",
    "etc/hostname": "../run/etc/hostname",
    "etc/hosts": "../run/etc/hosts",
    "etc/machine-id": "../run/etc/machine-id",
    "etc/mtab": "../proc/self/mounts",
    "etc/resolv.conf": "../run/etc/resolv.conf",
    "opt": "var/opt",
    "var/run": "../run",
}
_INIT = "#!/usr/bin/python3.13 -I\nfrom machined.init import main\n\nmain()\n"


def node_sources() -> list[Path]:
    """Files of the checkout whose bytecode goes into the root, sorted."""
    names = [f"{package}/{name}" for package in ("basalt", "machined") for name in files_below(paths.PROJECT / package)]
    return [paths.PROJECT / name for name in select(names, _ON_NODE, _LEFT_OUT)]


def os_step(
    tools: Step, identity: Mapping[str, Any], client_ca: str | None, config: str | None, overlay: Path | None
) -> Step:
    """What is Basalt's own.

    :param identity: content of ``image.json``.
    :param client_ca: a PEM bundle to trust from the first contact on.
    :param config: configuration documents for the first boot, without secrets.
    :param overlay: a directory of the user's whose files are added as they are.
    """
    return Step(
        "os",
        build_os,
        inputs={"tools": tools},
        params={
            "identity": dict(identity),
            "client_ca": client_ca or "",
            "config": config or "",
            "overlay": overlay.name if overlay else "",
        },
        files=[TEMPLATES, *node_sources(), *([overlay] if overlay else [])],
    )


def build_os(ctx: Context) -> None:
    """Run function of :func:`os_step`."""
    part = Part.new(ctx.out)
    identity = ctx.params["identity"]
    origin = f"basalt {identity['version']}"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    for name in files_below(TEMPLATES):
        text = environment.from_string((TEMPLATES / name).read_text()).render(identity)
        part.write(name, text.encode(), origin)
    part.write("usr/lib/basalt/image.json", json.dumps(identity, sort_keys=True).encode() + b"\n", origin)
    if ctx.params["client_ca"]:
        part.write("usr/lib/basalt/client-ca.pem", ctx.params["client_ca"].encode(), origin)
    if ctx.params["config"]:
        part.write("usr/lib/basalt/config.yaml", ctx.params["config"].encode(), origin)
    part.write("init", _INIT.encode(), origin, executable=True)
    for link, target in _LINKS.items():
        part.link(link, target, origin)
    for source in node_sources():
        part.add(source, f"{PACKAGES}/{source.relative_to(paths.PROJECT)}", "")
    compile_tree(ctx, part.tree, [PACKAGES])
    render_service_directories(part.tree / "usr/lib/basalt/services")
    part.origins.clear()
    part.adopt(lambda _name: origin)
    if ctx.params["overlay"]:
        # Where it lies is no part of the key: the same overlay in another checkout makes the same root.
        overlay = ctx.step.files[-1]
        for name in files_below(overlay):
            part.add(overlay / name, name, f"overlay {overlay.name}")
    part.save()
