"""The kernel of an image: configured, held against the policy, compiled, and described.

Four steps, so that each change costs what it must: a reworded reason builds nothing; another policy compiles nothing; another
configuration compiles what ccache does not know.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from osbuild.graph import Context, Step
from osbuild.kernel import config
from osbuild.steps.kernel_build import kernel_build_step
from osbuild.steps.kernel_config import kernel_config_step
from osbuild.steps.kernel_policy import kernel_policy_step

_MEASURED = ("bzImage", "vmlinux", "System.map")


def kernel_steps(tools: Step, archive: Step, names: Sequence[str]) -> Step:
    """The step that ends in a kernel.

    :param tools: a tree with the compiler.
    :param archive: the pool that holds the linux-source package.
    :param names: fragments of ``kernel-config/``.
    """
    configuration = kernel_config_step(tools, archive, names)
    compiled = kernel_build_step(tools, archive, configuration)
    return Step(
        "kernel",
        assemble,
        inputs={"config": configuration, "policy": kernel_policy_step(configuration), "build": compiled},
    )


def assemble(ctx: Context) -> None:
    """Run function of the last of :func:`kernel_steps`. Output: what was compiled, config, and kernel.json."""
    build = ctx.input("build")
    shutil.copytree(build, ctx.out, dirs_exist_ok=True)
    text = (ctx.input("config") / "config").read_text()
    (ctx.out / "config").write_text(text)
    found = config.counts(config.parse(text))
    facts = {
        "release": (build / "release").read_text().strip(),
        "builtin": found.builtin,
        "modules": found.modules,
        "size_bytes": {name: (build / name).stat().st_size for name in _MEASURED},
        "requirements_met": int((ctx.input("policy") / "requirements-met").read_text()),
    }
    (ctx.out / "kernel.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
