"""``osbuild kernel``: a profile's kernel, built if need be, described."""

from __future__ import annotations

from basalt import output
from basalt.commandline import Arguments
from osbuild import paths
from osbuild.commands.image import fetch_missing
from osbuild.graph import build
from osbuild.kernel.report import KernelReport, report
from osbuild.lock.model import load_debian
from osbuild.pipeline import kernel_graph
from osbuild.profile import load
from osbuild.progress import make_progress
from osbuild.store import Store


def kernel(arguments: Arguments) -> int:
    """Show counts, sizes and the hardening verdict."""
    store, profile, debian = Store(), load(arguments.profile).settings, load_debian()
    step = kernel_graph(profile, debian)
    progress = make_progress(arguments.progress)
    try:
        fetch_missing(store, debian, [step], progress, arguments.mirror)
        build(store, [step], progress)
    finally:
        progress.close()
    with store.using():
        found = report(store.path(step.key), paths.KERNEL_CONFIG, profile.kernel.fragments)
    output.answer(arguments.form, found.as_dict(), _as_text(found))
    return 0


def _as_text(found: KernelReport) -> str:
    verdict = found.verdict
    sizes = ", ".join(f"{name} {output.size(count)}" for name, count in found.sizes_bytes.items())
    rows = {
        "release": found.release,
        "fragments": ", ".join(found.fragments),
        "options": f"{found.builtin} built in, {found.modules} modules; {found.requested} asked for, the rest follows",
        "sizes": sizes,
        "hardening": f"{'ok' if verdict.ok else 'FAILED'}: {verdict.met} requirements met, {len(verdict.excepted)} excepted",
    }
    text = output.pairs(rows)
    if verdict.excepted:
        text += "\n\n" + output.table(
            ("excepted", "because"), [(item.symbol, item.reason) for item in verdict.excepted]
        )
    return text
