"""Who called, as the gateway says; and how an owner's answer or error becomes the API's.

Nobody but the gateway can reach the socket (its owner is the gateway's user, its mode 0600), so what the metadata says is what the
gateway verified. A call without it came from a program on the node that is not the gateway, and is refused.
"""

from __future__ import annotations

import errno
from typing import Any, NoReturn

import grpc
import grpc.aio
from msgspec import Struct

from basalt.config import ConfigError
from basalt.errors import BasaltError, UsageError
from machined.configuration import ConflictError
from machined.gateway import relay

DETAILS_BYTES_MAX = 6 * 1024  # gRPC carries the words of an error in a header; clients take 8 KiB of those


class ApiCaller(Struct, frozen=True):
    """The verified caller of one call."""

    name: str
    serial: str  # lower-case hex
    address: str
    request_id: str
    roles: tuple[str, ...] = ()
    certificate_pem: bytes = b""


async def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> ApiCaller:
    """The caller; an aborted call when the gateway did not name one."""
    metadata = dict(context.invocation_metadata() or ())
    name = metadata.get(relay.IDENTITY)
    if not isinstance(name, bytes) or not name:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this socket is the gateway's alone")
    return ApiCaller(
        name.decode("utf-8", "replace"),
        str(metadata.get(relay.SERIAL, "")),
        str(metadata.get(relay.ADDRESS, "")),
        str(metadata.get(relay.REQUEST_ID, "")),
        tuple(role for role in str(metadata.get(relay.ROLES, "")).split(",") if role),
        _bytes(metadata.get(relay.CERTIFICATE)),
    )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def status_of(error: BasaltError | OSError) -> grpc.StatusCode:
    """The status that an error means to a caller."""
    match error:
        case ConflictError():
            return grpc.StatusCode.ABORTED
        case ConfigError() | UsageError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case BasaltError():
            return grpc.StatusCode.FAILED_PRECONDITION
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case OSError() if error.errno == errno.EROFS:
            return grpc.StatusCode.FAILED_PRECONDITION
        case _:
            return grpc.StatusCode.INTERNAL


def words_of(error: BasaltError | OSError) -> str:
    """An error as the caller reads it: what, why, and the remedy on a line of its own; cut to what gRPC carries."""
    remedy = error.remedy if isinstance(error, BasaltError) else ""
    words = f"{error}\n{remedy}" if remedy else str(error)
    if len(words.encode()) <= DETAILS_BYTES_MAX:
        return words
    cut = words.encode()[:DETAILS_BYTES_MAX].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{cut}\n… and more"


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: BasaltError | OSError) -> NoReturn:
    """End the call with *error*."""
    await context.abort(status_of(error), words_of(error))
