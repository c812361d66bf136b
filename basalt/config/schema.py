"""The configuration's JSON Schema, generated from its types, for editors and other tools.

It is a little more lenient than :func:`basalt.config.parse`, which also knows the rules that no schema can say (a gateway
in reach of its link, an address that is no broadcast address).
"""

from __future__ import annotations

from typing import Any

import msgspec

from basalt.config.documents import KINDS

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
        "$defs": _without_null(definitions),
    }


def _without_null(schema: Any) -> Any:
    """The same schema where a field may be left out but not be null: None is Python's word for "left out"."""
    if isinstance(schema, dict):
        cleaned = {
            key: _without_null(value) for key, value in schema.items() if not (key == "default" and value is None)
        }
        members = [member for member in cleaned.pop("anyOf", []) if member != {"type": "null"}]
        return {**cleaned, **members[0]} if len(members) == 1 else cleaned
    if isinstance(schema, list | tuple):
        return [_without_null(item) for item in schema]
    return schema
