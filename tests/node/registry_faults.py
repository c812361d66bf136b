"""What can go wrong between a node and a registry, as values; :mod:`tests.node.registry_proxy` makes it happen."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from http import HTTPStatus

BLOBS = r"GET /v2/.+/blobs/"
EVERYTHING = r"/v2/"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    :param on: which requests it meets: a regular expression that is searched for in ``METHOD TARGET``. A digest is one, too.
    :param times: how often; None for as long as it stands.
    """

    on: str = BLOBS
    times: int | None = None


@dataclass(frozen=True, kw_only=True)
class Refuse(Fault):
    """Answers *status* and does not ask the registry. 401 asks for a password and takes none; 429 may say when to come back."""

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after_s: int | None = None
    on: str = EVERYTHING


@dataclass(frozen=True, kw_only=True)
class HangUp(Fault):
    """The connection ends without an answer, and the registry is not asked."""

    on: str = EVERYTHING


@dataclass(frozen=True, kw_only=True)
class BodyFault(Fault):
    """Meets answers with at least *at_least* bytes: layers and not configurations.

    :param at: where in the body it happens; in the middle when None.
    """

    at: int | None = None
    at_least: int = 16384

    def place(self, length: int) -> int:
        """Where it happens in a body of *length* bytes."""
        return min(length // 2 if self.at is None else self.at, length - 1)


@dataclass(frozen=True, kw_only=True)
class Stall(BodyFault):
    """Nothing more comes from the middle on, and the connection stays. The rest comes when the fault is taken away."""


@dataclass(frozen=True, kw_only=True)
class Truncate(BodyFault):
    """The connection ends in the middle."""


@dataclass(frozen=True, kw_only=True)
class Corrupt(BodyFault):
    """One byte in the middle is another one."""


@dataclass(frozen=True, kw_only=True)
class Slow(BodyFault):
    """So many bytes a second, for each answer that it meets."""

    bytes_per_s: int


@dataclass
class Request:
    """A request as it came in, and what became of it. *status* is 0 until there is an answer; *sent* counts bytes of its body; *began*
    is a time of :func:`time.monotonic`.
    """

    method: str
    target: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    fault: Fault | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def credentials(self) -> str:
        """``user:password``, where they came along."""
        kind, _, encoded = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(encoded).decode() if kind.lower() == "basic" else ""

    def __str__(self) -> str:
        what = f" ({type(self.fault).__name__})" if self.fault else ""
        return f"{self.method} {self.target}: {self.status or 'no answer'}, {self.sent} bytes{what}"
