"""The parts JSON Schemas are made of: closed objects, arrays, and a few plain types."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
ANY: Schema = {"type": "object"}


def closed(**properties: Schema) -> Schema:
    """An object with these properties, all required, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def array(items: Schema) -> Schema:
    """An array of any length."""
    return {"type": "array", "items": items}


def or_null(inner: Schema) -> Schema:
    """This, or null where there is none."""
    return {"anyOf": [inner, {"type": "null"}]}
