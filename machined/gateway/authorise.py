"""Who may call what: a table computed from the contract's method options, and one pure decision.

The contract is the only place that says which role a method needs. A method without a role is refused to everybody, so forgetting
the option closes a door instead of opening one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basalt.roles import Role, permitted
from machined.gateway.trust import CONFIGURED, FIRST_CONTACT
from machined.gateway.trust import LOCKED as LOCKED_MODE

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor


LOOKING_ONLY = (Role.READER, Role.METRICS)


@dataclass(frozen=True)
class Rule:
    """What the contract says about one method."""

    method: str  # as on the wire: /basalt.machine.v1.SystemService/Version
    role: Role | None
    first_contact: bool
    client_streaming: bool
    server_streaming: bool

    @property
    def changes(self) -> bool:
        """Whether the method may change something: its role is not one for looking only."""
        return self.role not in LOOKING_ONLY


class Verdict(enum.Enum):
    """The answer to a call, before it is made."""

    ALLOWED = enum.auto()
    LOCKED = enum.auto()
    NOT_CONFIGURED = enum.auto()
    NO_ROLE = enum.auto()
    CLOSED = enum.auto()


def rules_of(files: Iterable[FileDescriptor]) -> dict[str, Rule]:
    """The table for every method of every service in *files*."""
    from basalt.machine.v1 import options_pb2

    rules = {}
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                options = method.GetOptions()
                name = options_pb2.Role.Name(options.Extensions[options_pb2.role]).removeprefix("ROLE_")
                path = f"/{service.full_name}/{method.name}"
                rules[path] = Rule(
                    method=path,
                    role=Role.__members__.get(name),
                    first_contact=options.Extensions[options_pb2.first_contact],
                    client_streaming=method.client_streaming,
                    server_streaming=method.server_streaming,
                )
    return rules


def contract() -> Mapping[str, Rule]:
    """The rules of the node's API."""
    from basalt.machine.v1 import containers_pb2, machine_pb2

    return rules_of([machine_pb2.DESCRIPTOR, containers_pb2.DESCRIPTOR])


def decide(rule: Rule, mode: str, roles: frozenset[Role]) -> Verdict:
    """Whether somebody who holds *roles* may call the method now.

    The role is judged before the mode: who may not call a method learns nothing about the node from it.
    """
    if mode not in (FIRST_CONTACT, CONFIGURED):
        return Verdict.LOCKED
    if rule.role is None:
        return Verdict.CLOSED
    if not permitted(roles, rule.role):
        return Verdict.NO_ROLE
    if mode == FIRST_CONTACT and not rule.first_contact:
        return Verdict.NOT_CONFIGURED
    return Verdict.ALLOWED


def explain(verdict: Verdict, rule: Rule, roles: frozenset[Role]) -> str:
    """The refusal in words, for the caller."""
    match verdict:
        case Verdict.LOCKED:
            return f"this node is {LOCKED_MODE}: it knows no client authority, so nobody can be let in; its console says what to do"
        case Verdict.CLOSED:
            return f"{rule.method} names no role in the contract and is refused to everybody"
        case Verdict.NO_ROLE:
            held = ", ".join(sorted(roles)) or "none"
            return f"{rule.method} needs the role {rule.role}; the certificate carries: {held}"
        case Verdict.NOT_CONFIGURED:
            return f"this node has no configuration yet; apply one first ('osctl apply-config'), then {rule.method} answers"
        case Verdict.ALLOWED:
            return ""
