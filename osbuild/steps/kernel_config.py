"""The kernel's configuration: the request is handed to Kconfig, and what comes back must be what was asked.

The base is ``allnoconfig`` with the request as its ``KCONFIG_ALLCONFIG``: whatever has a prompt and is not asked for is off. Merging
into ``tinyconfig`` with ``olddefconfig`` would let in every driver and helper that defaults to ``y`` below a menu that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from basalt.errors import BasaltError
from osbuild import paths
from osbuild.graph import Context, Step
from osbuild.kernel import config, fragments, source

# All that Kconfig reads; unpacking the other 80,000 files would take longer than the configuration itself.
_PATTERNS = ("*/Kconfig*", "*/Makefile*", "*/scripts/*")


def kernel_config_step(tools: Step, archive: Step, names: Sequence[str]) -> Step:
    """The configuration that the fragments called *names* ask for. Its key holds symbols and values, not their reasons."""
    request = fragments.values(fragments.load(paths.KERNEL_CONFIG, names))
    return Step(
        "kernel-config", build_kernel_config, inputs={"tools": tools, "source": archive}, params={"request": request}
    )


def build_kernel_config(ctx: Context) -> None:
    """Run function of :func:`kernel_config_step`. Output: config.

    :raises BasaltError: naming every symbol that did not become what was asked.
    """
    request: Mapping[str, str] = ctx.params["request"]
    source.unpack(ctx, _PATTERNS)
    (ctx.work / "request").write_text(fragments.render(request))
    ctx.run(
        ["make", "--silent", "KCONFIG_ALLCONFIG=/work/request", "allnoconfig"], cwd=source.TREE, env=source.ENVIRONMENT
    )
    tree = ctx.work / "linux"
    text = (tree / ".config").read_text()
    wrong = config.differences(request, config.parse(text), _symbols(tree))
    if wrong:
        raise BasaltError(
            f"the kernel's configuration differs from what was asked in {len(wrong)} places",
            why="\n  " + "\n  ".join(map(str, wrong)),
            remedy="Ask for the missing dependency as well, or drop the setting; its line is in kernel-config/. "
            "'grep -rn \"config SYMBOL\"' in the kernel's source finds the definition",
        )
    (ctx.out / "config").write_text(text)


def _symbols(tree: Path) -> set[str]:
    """Every symbol that a Kconfig file of the source *tree* defines."""
    files = (path for path in tree.rglob("Kconfig*") if path.is_file())
    return {symbol for path in files for symbol in config.defined_symbols(path.read_text(errors="replace"))}
