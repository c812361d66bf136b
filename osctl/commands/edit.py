"""config edit: a node's configuration in the operator's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from basalt import config
from basalt.client import connect
from basalt.commandline import Arguments
from basalt.errors import BasaltError, UsageError
from basalt.files import write_atomic
from basalt.machine.v1 import machine_pb2 as api
from osctl import answers
from osctl.applying import MODES, Applied, Following, carry_out
from osctl.fleet import Outcome
from osctl.selection import targets_of, timeout_of

if TYPE_CHECKING:
    from basalt.client.calls import Client

# Before a comment that says what is wrong; lines that begin so are taken out again before the documents are read.
MARK = "#! "


def edit(arguments: Arguments) -> int:
    targets = targets_of(arguments)
    if len(targets) != 1:
        raise UsageError("one configuration is edited at a time", remedy="name one node with -n NAME")
    target, timeout_s = targets[0], timeout_of(arguments)
    with connect(target, timeout_s=timeout_s) as client:
        now = client.get_config()
    before = now.documents.decode("utf-8")
    # In a directory of its own and private: what is typed into it may be a secret.
    directory = Path(tempfile.mkdtemp(prefix="osctl-edit-"))
    path = directory / f"{target.name.replace('/', '-')}-generation-{now.generation}.yaml"

    def put(documents: bytes) -> Applied:
        def call(client: Client) -> api.ApplyConfigResponse:
            return client.apply_config(
                documents,
                source=path.name,
                dry_run=arguments.dry_run,
                expected_generation=now.generation,
                mode=MODES[arguments.mode],
                try_timeout_s=arguments.try_timeout,
            )

        return carry_out(
            target,
            call,
            Following(arguments.confirm, None, arguments.wait, arguments.form),
            dry_run=arguments.dry_run,
            context=arguments.context,
            timeout_s=timeout_s,
        )

    applied = until_valid(path, before, run_editor, put)
    path.unlink(missing_ok=True)
    directory.rmdir()
    if applied is None:
        print("nothing was changed")
        return 0
    return answers.show([Outcome(target, answer=applied)], arguments.form, Applied.as_dict, str)


def until_valid(
    path: Path, before: str, editor: Callable[[Path], None], put: Callable[[bytes], Applied]
) -> Applied | None:
    """Let *editor* work on *before* in *path*, again with what is wrong as comments, until *put* takes it.

    :returns: None when nothing was changed.
    :raises BasaltError: when the node refuses it for another reason than mistakes, or mistakes were left; *path* is kept.
    """
    shown = before
    while True:
        write_atomic(path, shown.encode(), mode=0o600)
        editor(path)
        text = without_marks(path.read_text(encoding="utf-8", errors="replace"))
        if text.strip() in ("", before.strip()):
            return None
        try:
            config.parse(text.encode(), path.name, accept_placeholders=True)
            return put(text.encode())
        except UsageError as error:
            if without_marks(shown).strip() == text.strip() and shown != before:
                _keep(path, error)
                raise
            shown = with_marks(text, error)
        except BasaltError as error:
            _keep(path, error)
            raise


def with_marks(text: str, error: UsageError) -> str:
    """*text* with what is wrong as comments: each problem above its line, and what has no line at the top."""
    lines = text.splitlines()
    if not isinstance(error, config.ConfigError):
        return "\n".join([*(f"{MARK}{line}" for line in (error.what, *error.why.splitlines())), *lines, ""])
    above: dict[int, list[str]] = {}
    for problem in error.problems:
        at = min(problem.position.line, len(lines)) - 1
        above.setdefault(max(at, 0), []).append(f"{MARK}{problem}")
    marked: list[str] = []
    for number, line in enumerate(lines):
        marked += [*above.get(number, ()), line]
    return "\n".join([*marked, ""])


def without_marks(text: str) -> str:
    """*text* without the comments of :func:`with_marks`."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(MARK))


def run_editor(path: Path) -> None:
    """Run $VISUAL, $EDITOR or vi on *path*, and wait for it.

    :raises BasaltError: when there is none, or it fails.
    """
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    try:
        done = subprocess.run([*words, str(path)], check=False)
    except OSError as error:
        raise UsageError(
            f"cannot run the editor {words[0]}",
            why=error.strerror or str(error),
            remedy="name one in $VISUAL or $EDITOR, or use `osctl get config` and `osctl apply-config`",
        ) from error
    if done.returncode:
        raise BasaltError(f"the editor ended with {done.returncode}", why="nothing was applied", remedy=f"see {path}")


def _keep(path: Path, error: BasaltError) -> None:
    """Have the error say where the work is."""
    kept = f"what you wrote is kept in {path}"
    error.remedy = f"{error.remedy}\n{kept}" if error.remedy else kept
