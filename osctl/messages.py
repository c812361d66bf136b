"""The contract's messages as plain values, with the contract's own field names."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """Every field of *message*, defaults included. Enum values are in lower case without their common prefix."""
    return {field.name: _value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


# The runtime has several implementations of a field's descriptor, without a type in common: hence Any.
def _value(field: Any, value: Any) -> Any:
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if field.enum_type is not None:
        number = field.enum_type.values_by_number.get(value)
        # CONCERN_STATE_CONVERGED of ConcernState, whose value 0 is CONCERN_STATE_UNSPECIFIED.
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        return number.name.removeprefix(prefix).lower() if number is not None else value
    return value
