"""The contract's messages as plain values, with the contract's own field names."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """Every field of *message*, defaults included. Enum values read as on the command line: without their common prefix, `no-reboot`."""
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
        # CONCERN_STATE_CONVERGED of ConcernState: all values of an enum begin with its name.
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        return number.name.removeprefix(prefix).lower().replace("_", "-") if number is not None else value
    return value
