"""Roles: what the holder of a client certificate may do.

A certificate carries them in its subject's organisation (O), one value each: ``os:reader``. The contract names the role
that an RPC needs (method option ``basalt.machine.v1.role``).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Role(enum.StrEnum):
    """A role, in the spelling of certificates. Member names are those of the contract's enum without ``ROLE_``."""

    READER = "os:reader"
    OPERATOR = "os:operator"
    ADMIN = "os:admin"
    DEBUG = "os:debug"
    METRICS = "os:metrics"

    @property
    def includes(self) -> frozenset[Role]:
        """The role itself and those that it stands for: admin > operator > reader; admin also debug and metrics."""
        if self is Role.ADMIN:
            return frozenset(Role)
        if self is Role.OPERATOR:
            return frozenset({Role.OPERATOR, Role.READER})
        return frozenset({self})

    @property
    def short(self) -> str:
        """The name that people type: ``reader``."""
        return self.value.removeprefix("os:")

    @classmethod
    def parse(cls, text: str) -> Role:
        """Read ``reader`` or ``os:reader``.

        :raises ValueError: for any other text.
        """
        return cls(text if text.startswith("os:") else f"os:{text}")


def permitted(held: Iterable[Role], needed: Role) -> bool:
    """Whether somebody who holds the roles *held* may do what needs *needed*."""
    return any(needed in role.includes for role in held)


def of_method(full_name: str) -> Role | None:
    """The role that the contract asks for.

    :param full_name: of a method, as on the wire (``/basalt.machine.v1.SystemService/Version``) or with dots.
    :returns: None where the contract names none; such a method is refused to everybody.
    :raises KeyError: when the contract has no such method.
    """
    from basalt.machine.v1 import machine_pb2, options_pb2

    method = machine_pb2.DESCRIPTOR.pool.FindMethodByName(full_name.lstrip("/").replace("/", "."))
    name = options_pb2.Role.Name(method.GetOptions().Extensions[options_pb2.role]).removeprefix("ROLE_")
    return Role.__members__.get(name)
