"""ca rotate: replace an authority on every node of a context."""

from __future__ import annotations

import sys
from dataclasses import asdict

from basalt import contexts, output
from basalt.client import Target
from basalt.commandline import Arguments
from basalt.errors import ExitCode, UsageError
from osctl.fleet import Outcome, on_all
from osctl.progress import Progress
from osctl.rotation import phases, record
from osctl.rotation.fleet import Fleet
from osctl.rotation.record import Rotation
from osctl.selection import timeout_of


def rotate(arguments: Arguments) -> int:
    everything = contexts.load()
    name = everything.current if arguments.context is None else arguments.context
    everything.get(name)
    fleet = Fleet(name, timeout_of(arguments))
    under_way = _under_way(name, arguments.authority)
    if arguments.dry_run:
        return _show_plan(fleet, arguments.authority, under_way, arguments.form)
    if not fleet.nodes:
        raise UsageError(f"the context {name!r} has no nodes", why="there is nothing to rotate the authority on")
    progress = Progress(arguments.form)
    try:
        with record.alone(name):
            if under_way is not None and arguments.form == "table":
                print(f"going on with {_where(under_way)}", file=sys.stderr)
            done = phases.run(fleet, arguments.authority, progress)
    finally:
        progress.close()
    output.answer(
        arguments.form,
        {"context": name, "authority": done.authority, "nodes": fleet.nodes, "old": done.old, "new": done.new},
        _farewell(fleet, done),
    )
    return ExitCode.OK


def _under_way(name: str, authority: str) -> Rotation | None:
    rotation = record.load(name)
    if rotation is not None and rotation.authority != authority:
        raise UsageError(
            f"{_where(rotation)} is under way",
            why="one authority is rotated at a time",
            remedy=f"finish it first: osctl ca rotate --authority {rotation.authority}",
        )
    return rotation


def _where(rotation: Rotation) -> str:
    at = f" in the phase {rotation.phase!r}" + (f" at {rotation.node}" if rotation.node else "")
    return f"the rotation of the {rotation.authority} authority{at if rotation.phase else ''}"


def _show_plan(fleet: Fleet, authority: str, under_way: Rotation | None, form: str) -> int:
    steps = phases.plan(authority, fleet.nodes, after=under_way.phase if under_way is not None else "")

    def look(target: Target) -> str:
        return _not_ready(fleet, target)

    nodes = on_all([fleet.target(node) for node in fleet.nodes], look)
    standing = [
        {"node": outcome.target.name, "ready": not _problem(outcome), "why": _problem(outcome)} for outcome in nodes
    ]
    shown = {
        "context": fleet.context_name,
        "authority": authority,
        "under_way": under_way is not None,
        "phase": under_way.phase if under_way is not None else "",
        "steps": [asdict(step) for step in steps],
        "nodes": standing,
    }
    lines = [f"{_where(under_way)} is under way; ahead of it:"] if under_way is not None else []
    lines += [
        output.table(("phase", "where", "what"), [(step.phase, step.where, step.what) for step in steps]),
        "",
        output.table(("node", "ready", "why"), [(one["node"], one["ready"], one["why"]) for one in standing]),
        "",
        *_warnings(authority),
        "nothing was changed (--dry-run)",
    ]
    output.answer(form, shown, "\n".join(lines))
    return ExitCode.OK if all(one["ready"] for one in standing) else ExitCode.FAILED


def _problem(outcome: Outcome[str]) -> str:
    return str(outcome.error) if outcome.error is not None else outcome.answer or ""


def _not_ready(fleet: Fleet, target: Target) -> str:
    """Why a node cannot do its part now; empty when it can."""
    status = fleet.status(target)
    if not status.generation:
        return "it has no configuration: `osctl apply-config` gives it one"
    if status.trial_left_s:
        return "a configuration is on trial: `osctl config confirm` or `osctl config rollback` ends that"
    return ""


def _warnings(authority: str) -> list[str]:
    if authority == "client":
        return [
            "Certificates that the old authority signed for other people stop working at the removal: give them new ones "
            "(`osctl gen client`).",
        ]
    return [
        "Other operators need the new authority once the nodes are switched: `osctl context ca --authority node` prints both after "
        "the phase 'add', `osctl context trust --node-ca FILE` takes them up.",
    ]


def _farewell(fleet: Fleet, done: Rotation) -> str:
    directory = contexts.directory_of(fleet.context_name)
    lines = [
        f"the {done.authority} authority of {', '.join(fleet.nodes)} is a new one",
        f"the old one's files are still in {directory}: keep them as long as other nodes or people depend on it",
    ]
    if done.authority == "client":
        lines.append(
            "documents that you keep elsewhere with an AccessConfig need the new one: `osctl context ca` prints it"
        )
    else:
        lines.append("other operators need it: osctl context ca --authority node > node-ca.pem")
    return "\n".join(lines)
