"""Compiling the kernel, exactly as configured. Its key holds the configuration's, the source's and the tools': nothing else."""

from __future__ import annotations

import os
import shutil

from basalt.errors import BasaltError
from osbuild.graph import Context, Step
from osbuild.kernel import source
from osbuild.sandbox import Bind

_CCACHE_LIMIT = "2G"  # some six configurations
_JOBS_PER_CPU = 2  # while one waits for its files, the other compiles

# CONFIG_WERROR holds for every file but these, where gcc 14 is wrong:
# padata.c: with more than 64 CPUs it takes the end of a CPU mask for reachable by a copy of fixed size.
_FALSE_WARNINGS = ("CFLAGS_padata.o=-Wno-error=stringop-overread",)


def kernel_build_step(tools: Step, archive: Step, config: Step) -> Step:
    """*config* is the step of :mod:`osbuild.steps.kernel_config`."""
    return Step("kernel-build", build_kernel, inputs={"tools": tools, "source": archive, "config": config})


def build_kernel(ctx: Context) -> None:
    """Run function of :func:`kernel_build_step`.

    Output: bzImage, the EFI program for unified kernel images · vmlinux, an ELF file with a PVH entry for ``qemu -kernel`` ·
    System.map · Module.symvers · release · modules/lib/modules/<release>/.

    :raises BasaltError: when the build would change the configuration.
    """
    source.unpack(ctx)
    tree = ctx.work / "linux"
    config = (ctx.input("config") / "config").read_text()
    (tree / ".config").write_text(config)
    cache = ctx.store.cache / "ccache"
    cache.mkdir(parents=True, exist_ok=True)
    binds = [Bind(cache, "/ccache", writable=True)]
    env = source.ENVIRONMENT | {
        "CCACHE_DIR": "/ccache",
        "CCACHE_MAXSIZE": _CCACHE_LIMIT,
        # Dependencies come from the compiler's own list (Kbuild asks for it anyway), which spares preprocessing every file twice.
        "CCACHE_DEPEND": "1",
        # Which compiler this is says the tools' key; its time stamps say nothing.
        "CCACHE_COMPILERCHECK": f"string:{ctx.step.inputs['tools'].key}",
    }

    def make(*targets: str) -> str:
        argv = ["make", "--silent", f"--jobs={_JOBS_PER_CPU * (os.cpu_count() or 1)}", "CC=ccache gcc", *targets]
        return ctx.run(argv, cwd=source.TREE, env=env, binds=binds)

    make("olddefconfig")
    if (tree / ".config").read_text() != config:
        raise BasaltError(
            "the kernel's build would change its configuration",
            why="olddefconfig gives another result than the configuration step, so the two saw different tools or sources",
            remedy="Delete both steps from the store with 'osbuild cache gc' and build again",
        )
    ctx.note("compiling (minutes, unless ccache knows it)")
    make(*_FALSE_WARNINGS, "bzImage", "modules")
    ctx.note("packing")
    # The symbol table is System.map's; stripping keeps the ELF notes, among them the PVH entry.
    ctx.run(["strip", "--strip-all", "-o", "/out/vmlinux", "vmlinux"], cwd=source.TREE)
    make("INSTALL_MOD_PATH=/out/modules", "modules_install")
    for name, path in (
        ("bzImage", "arch/x86/boot/bzImage"),
        ("System.map", "System.map"),
        ("Module.symvers", "Module.symvers"),
        ("release", "include/config/kernel.release"),
    ):
        shutil.copyfile(tree / path, ctx.out / name)
    modules = ctx.out / "modules/lib/modules" / (ctx.out / "release").read_text().strip()
    for link in ("build", "source"):  # they point to this step's scratch space
        (modules / link).unlink(missing_ok=True)
