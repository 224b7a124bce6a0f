"""The JSON Schema of an OpenAI batch request."""

from __future__ import annotations

from antangel_cli.clinic.schema_parts import TEXT, Schema, array, closed


def request_schema(custom_id: Schema) -> Schema:
    """`custom_id, method, url, body`, with what of a body is taken (docs/batch.md)."""
    part = closed(type={"const": "text"}, text=TEXT)
    roles = {"enum": ["system", "developer", "user", "assistant"]}
    message = {
        "type": "object",
        "properties": {"role": roles, "content": {"anyOf": [TEXT, {**array(part), "minItems": 1}]}},
        "required": ["role", "content"],
    }
    body = {
        "type": "object",
        "properties": {
            "messages": {**array(message), "minItems": 1},
            "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 5},
            "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
            "seed": {"type": ["integer", "null"], "minimum": 0},
            "max_tokens": {"type": ["integer", "null"], "minimum": 1},
            "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1},
        },
        "required": ["messages"],
    }
    fixed = {"method": {"const": "POST"}, "url": {"const": "/v1/chat/completions"}}
    return {**closed(custom_id=custom_id, **fixed, body=body), "additionalProperties": True}
