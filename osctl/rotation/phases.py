"""The phases of a rotation as tables, and the runner that carries one out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from basalt import pki
from basalt.errors import BasaltError
from osctl.progress import Progress
from osctl.rotation import client, node, record
from osctl.rotation.fleet import Fleet
from osctl.rotation.record import Rotation

PerNode = Callable[[Fleet, Rotation, str], str]


@dataclass(frozen=True)
class Phase:
    """A part of the way: done on each node, or once in the context, and then looked at on each node."""

    name: str
    summary: str  # what it does, for the plan
    on_node: PerNode | None = None
    in_context: Callable[[Fleet, Rotation], str] | None = None
    check: PerNode | None = None
    check_summary: str = ""


CLIENT = (
    Phase(
        "add",
        "add the new client authority to its AccessConfig, on trial until the new certificate has confirmed it",
        on_node=client.add,
        check=client.check_added,
        check_summary="see that the new certificate works",
    ),
    Phase(
        "switch",
        "have the context use the new authority and show the new certificate",
        in_context=client.switch,
        check=client.check_switched,
        check_summary="see that the context's certificate works",
    ),
    Phase(
        "remove",
        "remove the old client authority from its AccessConfig, on trial until the new certificate has confirmed it",
        on_node=client.remove,
        check=client.check_removed,
        check_summary="see that the old certificate is refused",
    ),
)

NODE = (
    Phase(
        "add",
        "have the context accept nodes of both authorities",
        in_context=node.add,
        check=node.check_added,
        check_summary="see that it is recognised",
    ),
    Phase(
        "switch",
        "have the new node authority vouch for it",
        on_node=node.switch,
        check=node.check_switched,
        check_summary="see that the new authority alone recognises it",
    ),
    Phase(
        "remove",
        "have the context accept nodes of the new authority alone",
        in_context=node.remove,
        check=node.check_removed,
        check_summary="see that it is recognised, and not by the old authority",
    ),
)

PHASES = {"client": CLIENT, "node": NODE}


@dataclass(frozen=True)
class Step:
    """One line of the plan."""

    phase: str
    where: str  # a node, or "the context"
    what: str


def plan(authority: str, nodes: Sequence[str], *, after: str = "") -> list[Step]:
    """Every step that is ahead.

    :param after: begin with this phase.
    """
    steps = []
    phases = PHASES[authority]
    names = [phase.name for phase in phases]
    for phase in phases[names.index(after) if after else 0 :]:
        if phase.in_context is not None:
            steps.append(Step(phase.name, "the context", phase.summary))
        if phase.on_node is not None:
            steps += [Step(phase.name, name, phase.summary) for name in nodes]
        steps += [Step(phase.name, name, phase.check_summary) for name in nodes]
    return steps


def run(fleet: Fleet, authority: str, progress: Progress) -> Rotation:
    """Begin a rotation or go on with the one that is under way, to its end.

    :raises UsageError: when this operator cannot, or the other authority is being rotated.
    :raises BasaltError: when a node does not do its part; what was done so far stands and is gone on with next time.
    """
    rotation = record.load(fleet.context_name)
    if rotation is None:
        begin = client.begin if authority == "client" else node.begin
        rotation = begin(fleet, pki.utc_now())
        record.save(fleet.context_name, rotation)
    phases = PHASES[authority]
    names = [phase.name for phase in phases]
    for phase in phases[names.index(rotation.phase) if rotation.phase else 0 :]:
        rotation = _carry_out(fleet, rotation, phase, progress)
    record.finish(fleet.context_name)
    return rotation


def _carry_out(fleet: Fleet, rotation: Rotation, phase: Phase, progress: Progress) -> Rotation:
    if phase.in_context is not None:
        rotation = _note(fleet, rotation, phase, "")
        progress.start(f"{phase.name}: the context")
        progress.done(phase.in_context(fleet, rotation))
    if phase.on_node is not None:
        rotation = _each(fleet, rotation, phase, phase.on_node, progress)
    assert phase.check is not None
    return _each(fleet, rotation, phase, phase.check, progress)


def _each(fleet: Fleet, rotation: Rotation, phase: Phase, act: PerNode, progress: Progress) -> Rotation:
    """Do *act* on every node, those after one that fails included: the next run has the less to do."""
    failed: dict[str, BasaltError] = {}
    for name in fleet.nodes:
        rotation = _note(fleet, rotation, phase, name)
        progress.start(f"{phase.name}: {name}")
        try:
            progress.done(act(fleet, rotation, name))
        except BasaltError as error:
            progress.failed(str(error))
            failed[name] = error
    if failed:
        raise stopped(rotation, phase, failed)
    return rotation


def _note(fleet: Fleet, rotation: Rotation, phase: Phase, name: str) -> Rotation:
    noted = msgspec.structs.replace(rotation, phase=phase.name, node=name)
    record.save(fleet.context_name, noted)
    return noted


def stopped(rotation: Rotation, phase: Phase, failed: dict[str, BasaltError]) -> BasaltError:
    """What to tell when nodes have not done their part: with the exit code of the first one's error."""
    first = next(iter(failed.values()))
    kind = next(kind for kind in type(first).__mro__ if kind.__module__ == BasaltError.__module__)
    assert issubclass(kind, BasaltError)
    on = (
        "and the old authority is gone from those that are done" if phase.name == "remove" else "both authorities count"
    )
    remedies = [error.remedy for error in failed.values() if error.remedy]
    return kind(
        f"the rotation stopped in the phase {phase.name!r}: {', '.join(failed)}",
        why="\n".join(f"{name}: {error}" for name, error in failed.items()),
        remedy="\n".join(
            [
                *dict.fromkeys(remedies),
                f"everybody who has the context can work as before: {on}. Then go on with "
                f"`osctl ca rotate --authority {rotation.authority}`; a node that is gone for good is left out after "
                "`osctl context remove-node NAME`",
            ]
        ),
    )
