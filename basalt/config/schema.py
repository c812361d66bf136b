"""The configuration's JSON Schema, generated from its types, for editors and other tools.

It is a little more lenient than :func:`basalt.config.parse`, which also knows the rules that no schema can say (a gateway
in reach of its link, an address that is no broadcast address).
"""

from __future__ import annotations

from typing import Any

import msgspec

from basalt.config.documents import KINDS
from basalt.config.values import OR_NUMBER

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """A schema for one document of any kind."""
    kinds = [document for document, _ in KINDS.values()]
    references, definitions = msgspec.json.schema_components(kinds)
    for document in kinds:
        # In Python the version is a constant with a default; in a file it must be written.
        definition = definitions[document.__name__]
        definition["required"] = ["apiVersion", *definition["required"]]
        definition["properties"]["apiVersion"].pop("default", None)
    return {
        "$schema": DIALECT,
        "title": "Basalt configuration document",
        "oneOf": list(references),
        "$defs": _cleaned(definitions),
    }


def _cleaned(schema: Any) -> Any:
    """The same schema as files are written.

    A field may be left out but not be null: None is Python's word for "left out". A text that looks like a number needs no quotes.
    """
    if isinstance(schema, list | tuple):
        return [_cleaned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    cleaned = {key: _cleaned(value) for key, value in schema.items() if not (key == "default" and value is None)}
    members = [member for member in cleaned.pop("anyOf", []) if member != {"type": "null"}]
    if len(members) == 1:
        cleaned |= members[0]
    if cleaned.pop(OR_NUMBER, False):
        cleaned["type"] = ["string", "number"]
    return cleaned
