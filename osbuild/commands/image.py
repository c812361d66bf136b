"""``osbuild profiles | image | plan``."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from basalt import output
from basalt.commandline import Arguments
from basalt.errors import UsageError
from osbuild import profile as profiles_module
from osbuild.graph import Built, Step, build, failing_workspace, topological
from osbuild.graph import plan as plan_steps
from osbuild.lock import wheels as wheel_files
from osbuild.lock.model import DebianLock, WheelLock
from osbuild.outputs import artifacts, hand_out
from osbuild.pipeline import Image, image_graph
from osbuild.progress import Progress, make_progress
from osbuild.sandbox import shell
from osbuild.steps.trees import ensure_downloaded
from osbuild.store import Store


def profiles(arguments: Arguments) -> int:
    """List the profiles with their descriptions."""
    rows = [
        {"name": name, "description": profiles_module.load(name).settings.description}
        for name in profiles_module.available()
    ]
    text = output.table(("name", "description"), [(row["name"], row["description"]) for row in rows])
    output.answer(arguments.form, rows, text)
    return 0


def read_client_ca(path: str | None) -> str | None:
    """The PEM file given as ``--client-ca``.

    :raises UsageError: when it holds no usable certificate authority.
    """
    if path is None:
        return None
    from basalt.pki_checks import load_client_authorities

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read --client-ca {path}", why=error.strerror or "") from error
    load_client_authorities(data, path)
    return data.decode(errors="replace")  # around the certificates, which are ASCII, may stand anything


def read_config(path: str | None) -> str | None:
    """The documents given as ``--config``, in canonical form: comments and their order make no other image.

    :raises UsageError: it is no configuration, or has secrets: an image is no place for them.
    """
    if path is None:
        return None
    from basalt.config import parse, redact, render

    try:
        configuration = parse(Path(path).read_bytes(), path)
    except OSError as error:
        raise UsageError(f"cannot read --config {path}", why=error.strerror or "") from error
    if redact(configuration) != configuration:
        raise UsageError(
            f"{path} has secrets",
            why="whoever can read the image, or the store that it is built in, could read them",
            remedy="Leave them out and apply them later, or hand the documents over by another way (docs/guides/first-boot.md)",
        )
    return render(configuration).decode()


def graph_of(arguments: Arguments) -> Image:
    """The image that --profile, --version, --client-ca and --config ask for."""
    return image_graph(
        arguments.profile,
        version=arguments.version,
        client_ca=read_client_ca(arguments.client_ca),
        config=read_config(arguments.config),
    )


def fetch_missing(
    store: Store,
    debian: DebianLock,
    targets: list[Step],
    progress: Progress,
    mirror: str | None,
    *,
    wheels: WheelLock | None = None,
) -> None:
    """Download what the steps of *targets* that will run need, and nothing else.

    :raises StaleLockError: when the archive no longer has what the lock names.
    """
    running = {planned.step.name for planned in plan_steps(store, targets) if planned.state == "build"}
    for name in debian.sets:
        if running & {name, f"{name}-pool"}:
            label = f"fetch {name}"
            progress.start(label)
            ensure_downloaded(store.cache, debian, name, functools.partial(progress.detail, label), mirror)
            progress.done(label)
    if wheels and "python" in running:
        wheel_files.fetch(store.cache, wheels)


def build_image(store: Store, image: Image, targets: list[Step], arguments: Arguments, progress: Progress) -> Built:
    """Fetch and build *targets*, then keep the store below its limit."""
    fetch_missing(store, image.debian, targets, progress, arguments.mirror, wheels=image.wheels)
    built = build(store, targets, progress, jobs=arguments.jobs)
    if built.built:
        keep_within_limit(store, targets)
    return built


def keep_within_limit(store: Store, targets: list[Step]) -> None:
    """Collect what exceeds the store's limit, but nothing of the image at hand; another build's lock postpones it."""
    from basalt.errors import BasaltError

    used = sum(entry.size_bytes for entry in store.entries())
    if used <= store.limit_bytes:
        return
    try:
        store.collect(store.limit_bytes, frozenset(step.key for step in topological(targets)))
    except BasaltError:
        return  # somebody else is building; that build, or the next, does it


def image(arguments: Arguments) -> int:
    """Build an image and hand out its artifacts."""
    started = time.monotonic()
    store, wanted = Store(), graph_of(arguments)
    targets = wanted.targets(arguments.format)
    progress = make_progress(arguments.progress)
    try:
        if arguments.shell_at:
            return _shell_at(store, wanted, targets, arguments, progress)
        built = build_image(store, wanted, targets, arguments, progress)
    finally:
        progress.close()
    with store.using():
        directory = Path(arguments.output or f"build/{wanted.name}")
        paths = hand_out(store, artifacts(wanted, arguments.format), directory)
        result = describe(store, wanted)
    result |= {
        "artifacts": {kind: str(path) for kind, path in paths.items()},
        "steps": {"built": len(built.built), "cached": len(built.cached)},
        "seconds": round(time.monotonic() - started, 3),
    }
    output.answer(arguments.form, result, _as_text(result, directory))
    return 0


def describe(store: Store, image: Image) -> dict[str, Any]:
    """Facts of a built image, for ``-o json``."""
    root = json.loads((store.path(image.root.key) / "root.json").read_text())
    kernel = json.loads((store.path(image.kernel.key) / "kernel.json").read_text())
    uki_bytes = (store.path(image.uki.key) / "basalt.efi").stat().st_size
    total = root["root_bytes"] + root["verity_bytes"] + uki_bytes
    return {
        "profile": image.name,
        "version": image.identity["version"],
        "root_hash": root["root_hash"],
        "sizes": {
            "root_bytes": root["root_bytes"],
            "verity_bytes": root["verity_bytes"],
            "uki_bytes": uki_bytes,
            "total_bytes": total,
        },
        "kernel": {name: kernel[name] for name in ("release", "builtin", "modules")},
    }


_SIZES = {"root": "root_bytes", "hash tree": "verity_bytes", "UKI": "uki_bytes"}


def _as_text(result: dict[str, Any], directory: Path) -> str:
    sizes, kernel = result["sizes"], result["kernel"]
    rows = {
        "profile": f"{result['profile']} {result['version']}",
        "root hash": result["root_hash"],
        "size": f"{output.size(sizes['total_bytes'])} ("
        + ", ".join(f"{name} {output.size(sizes[key])}" for name, key in _SIZES.items())
        + ")",
        "kernel": f"{kernel['release']}, {kernel['builtin']} built in, {kernel['modules']} modules",
        "steps": f"{result['steps']['built']} built, {result['steps']['cached']} cached, {result['seconds']} s",
        "written to": f"{directory}/",
    }
    return output.pairs(rows)


def _shell_at(store: Store, image: Image, targets: list[Step], arguments: Arguments, progress: Progress) -> int:
    by_name = {step.name: step for step in topological(targets)}
    step = by_name.get(arguments.shell_at)
    if step is None or not step.inputs:
        usable = ", ".join(name for name, candidate in by_name.items() if candidate.inputs)
        raise UsageError(f"no shell can be opened at '{arguments.shell_at}'", remedy=f"Steps with a sandbox: {usable}")
    tools = next((name for name in step.inputs if name.endswith("tools")), None)
    if tools is None:
        raise UsageError(f"step {step.name} runs no programs", remedy="Choose a step that does, such as root or kernel")
    needed = list(step.inputs.values())
    fetch_missing(store, image.debian, needed, progress, arguments.mirror, wheels=image.wheels)
    build(store, needed, progress, jobs=arguments.jobs)
    progress.close()
    if not sys.stdin.isatty() or not shutil.which("bwrap"):
        raise UsageError("--shell-at needs a terminal and bubblewrap")
    with failing_workspace(store, step, progress) as ctx:
        print(
            f"step {step.name}: inputs in /in, output goes to /out, scratch in /work; leave with exit", file=sys.stderr
        )
        return shell(ctx.sandbox(tools))


def plan(arguments: Arguments) -> int:
    """Say for each step whether it would run, and why."""
    store, wanted = Store(), graph_of(arguments)
    rows = [
        {"step": p.step.name, "state": p.state, "because": list(p.reasons), "key": p.step.key}
        for p in plan_steps(store, wanted.targets(("raw", "qcow2")))
    ]
    text = output.table(
        ("step", "state", "because"),
        [(row["step"], row["state"], _shorten([str(r) for r in row["because"]])) for row in rows],
    )
    output.answer(arguments.form, rows, text)
    return 0


def _shorten(reasons: list[str], most: int = 3) -> str:
    rest = len(reasons) - most
    return ", ".join(reasons[:most]) + (f" and {rest} more" if rest > 0 else "")
