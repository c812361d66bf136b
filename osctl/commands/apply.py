"""apply-config, and config diff, rollback, confirm and patch: what changes a node's configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from basalt import config, output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.errors import ExitCode, UsageError
from basalt.machine.v1 import machine_pb2 as api
from osctl import answers
from osctl.applying import MODES, Applied, Following, Trial, carry_out
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.reading import read_documents
from osctl.selection import targets_of, timeout_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from basalt.client.calls import Client


def apply(arguments: Arguments) -> int:
    documents, source = read_documents(arguments.file)
    # Here first: a mistake is told before any of several nodes has changed. Only the node knows what a placeholder stands for.
    config.parse(documents, source, accept_placeholders=True)

    def call(client: Client) -> api.ApplyConfigResponse:
        return client.apply_config(
            documents,
            source=source,
            dry_run=arguments.dry_run,
            expected_generation=arguments.expected_generation,
            mode=MODES[arguments.mode],
            try_timeout_s=arguments.try_timeout,
        )

    return put(arguments, targets_of(arguments), call)


def rollback(arguments: Arguments) -> int:
    def call(client: Client) -> api.ApplyConfigResponse:
        return client.rollback_config(
            arguments.generation,
            dry_run=arguments.dry_run,
            mode=MODES[arguments.mode],
            try_timeout_s=arguments.try_timeout,
        )

    return put(arguments, targets_of(arguments), call)


def patch(arguments: Arguments) -> int:
    from basalt.config.patch import patch as patched

    changes, source = read_documents(arguments.file)

    def call(client: Client) -> api.ApplyConfigResponse:
        now = client.get_config()
        return client.apply_config(
            patched(now.documents, changes, source),
            source=source,
            dry_run=arguments.dry_run,
            expected_generation=now.generation,
            mode=MODES[arguments.mode],
            try_timeout_s=arguments.try_timeout,
        )

    return put(arguments, targets_of(arguments), call)


def put(arguments: Arguments, targets: list[Target], call: Callable[[Client], api.ApplyConfigResponse]) -> int:
    """Make *call* on every target, follow what comes of it, and show that.

    :returns: the exit code.
    """
    alone = len(targets) == 1 and arguments.form == "table" and sys.stdin.isatty() and sys.stdout.isatty()
    following = Following(arguments.confirm, _ask if alone else None, arguments.wait, arguments.form)

    def act(target: Target) -> Applied:
        return carry_out(
            target,
            call,
            following,
            dry_run=arguments.dry_run,
            context=arguments.context,
            timeout_s=timeout_of(arguments),
        )

    outcomes = on_all(targets, act)
    code = answers.show(outcomes, arguments.form, Applied.as_dict, str)
    cut_off = any(one.answer.trial is not None and not one.answer.trial.works for one in outcomes if one.answer)
    return ExitCode.UNREACHABLE if code == ExitCode.OK and cut_off else code


def _ask(target: Target, trial: Trial) -> bool:
    """Whether the person at the terminal wants to keep what is on trial."""
    if not trial.works:
        return False
    question = (
        f"{target} has its new configuration on trial and answers a new connection. "
        f"Keep it? Otherwise it is taken back in {output.duration(trial.left_s)}. [y/N] "
    )
    return input(question).strip().lower() in ("y", "yes")


def diff(arguments: Arguments) -> int:
    documents, source = read_documents(arguments.file)
    config.parse(documents, source, accept_placeholders=True)

    def ask(target: Target) -> Applied:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return Applied(client.apply_config(documents, source=source, dry_run=True), dry_run=True)

    def text(applied: Applied) -> str:
        return "" if not applied.answer.diff else str(applied)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, Applied.as_dict, text)


def confirm(arguments: Arguments) -> int:
    targets = targets_of(arguments)
    if arguments.generation and len(targets) > 1:
        raise UsageError(
            "a generation goes with one node",
            why="nodes count their generations each for itself",
            remedy="leave it out, or name one node",
        )

    def act(target: Target) -> api.ConfirmConfigResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.confirm_config(arguments.generation)

    def text(answer: api.ConfirmConfigResponse) -> str:
        return f"confirmed: generation {answer.generation} stands"

    return answers.show(on_all(targets, act), arguments.form, plain, text)
