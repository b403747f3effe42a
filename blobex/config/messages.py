"""One-sentence messages about invalid values: the key, its value and the allowed range."""

from __future__ import annotations

import reprlib
from typing import Any

from pydantic import TypeAdapter, ValidationError

from blobex.core.errors import brief

UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}
_REPR = reprlib.Repr()  # a few lines of YAML can expand to billions of items
_REPR.maxlevel, _REPR.maxstring = 2, 60

Schema = dict[str, Any]  # JSON schema


def abbreviated(value: object) -> str:
    """Return the repr of a value, truncated if it is long.

    >>> abbreviated([1, 2])
    '[1, 2]'
    """
    return brief(_REPR.repr(value))


def message(error: ValidationError, adapter: TypeAdapter[Any], name: str) -> str:
    """Describe the first error of a validation of the value at the dotted key `name` in one sentence.

    Unknown and missing keys come before wrong values, those of outer mappings before those of inner ones.
    """
    details = min(error.errors(include_url=False), key=_rank)
    kind, location = details["type"], details["loc"]
    schema = adapter.json_schema()
    definitions = schema.get("$defs", {})
    is_key = location[-1:] == ("[key]",) and kind not in UNKNOWN
    parents = location[:-2] if is_key else location[:-1] if kind in (*UNKNOWN, "missing") else location
    for part in parents:
        schema = non_null(schema)
        is_item = schema.get("type") == "array"
        name = f"{name}[{part}]" if is_item else f"{name}.{part}" if name else str(part)
        schema = _child(schema, part, definitions)
    prefix = f"{name}." if name else ""
    if kind in UNKNOWN:
        return f"unknown key {prefix}{brief(location[-1], 60)}: the keys there are {', '.join(schema['properties'])}"
    if kind == "missing":
        return f"missing key {prefix}{location[-1]}: add it (profiles/synthetic.yaml shows its place)"
    if is_key:
        name, schema = f"a key of {name}", schema.get("propertyNames", {"type": "integer"})
    rule = str(details["ctx"]["error"]) if kind == "value_error" else allowed(schema)
    return f"{name or 'params.yaml'} is {abbreviated(details['input'])}: {rule}"


def allowed(schema: Schema) -> str:
    """Describe the values that a JSON schema of a parameter allows.

    >>> allowed({"type": "integer", "minimum": 0, "maximum": 3})
    'it must be a whole number from 0 to 3'
    """
    null = ", or null" if "anyOf" in schema else ""
    schema = non_null(schema)
    if options := values(schema):
        return f"choose one of {', '.join(options)}{null}"
    limits = f" from {schema['minimum']:.10g} to {schema['maximum']:.10g}" if "minimum" in schema else ""
    return f"it must be {WORDS[schema['type']]}{limits}{null}"


def values(schema: Schema) -> list[str]:
    """Return the values of an enumeration; none if any value of a type is allowed."""
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def non_null(schema: Schema) -> Schema:
    """Return the schema of the values other than null."""
    return next((option for option in schema.get("anyOf", ()) if option.get("type") != "null"), schema)


def _child(schema: Schema, part: str | int, definitions: dict[str, Schema]) -> Schema:
    """Return the schema of an item of a list, or of the value of a key."""
    if schema["type"] == "array":
        child = schema["items"]
    else:
        child = schema.get("properties", {}).get(part) or schema["additionalProperties"]
    return resolved(child, definitions)


def resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return the schema that a reference points to, with the reference's own description."""
    if "$ref" not in schema:
        return schema
    return definitions[schema["$ref"].rsplit("/", 1)[-1]] | {key: schema[key] for key in schema if key != "$ref"}


def _rank(details: Any) -> tuple[float, bool]:
    structural = details["type"] in (*UNKNOWN, "missing")
    return (len(details["loc"]) if structural else float("inf"), details["type"] not in UNKNOWN)
