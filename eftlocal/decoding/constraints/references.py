"""Follows the references ($ref) in a JSON Schema, and finds recursion that cannot end."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

__all__ = ["can_finish", "items", "references", "tables", "target"]


def tables(value: Any) -> Iterator[Mapping[str, Any]]:
    """All JSON objects in a JSON value, itself first."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from tables(inner)


def references(root: Mapping[str, Any]) -> Iterator[str]:
    """The places in the schema itself that a $ref names, as paths: /$defs/x."""
    for table in tables(root):
        if isinstance(ref := table.get("$ref"), str) and ref.startswith("#"):
            yield unquote(ref[1:]).replace("~1", "/").replace("~0", "~")


def target(root: Any, ref: str) -> Any:
    """What a $ref names; True, which any value satisfies, if it is not a path in the schema itself."""
    for part in ref.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        elif isinstance(root, Mapping) and key in root:
            root = root[key]
        else:
            return True
    return root if ref == "#" or ref.startswith("#/") else True


def can_finish(root: Mapping[str, Any]) -> bool:
    """Whether a finite value can satisfy the schema, as far as its recursion says."""
    ends: dict[str, bool] = {}  # $ref -> whether a finite value is known to satisfy its target

    def can_end(schema: Any) -> bool:
        if not isinstance(schema, Mapping):
            return True
        if isinstance(ref := schema.get("$ref"), str) and not ends.setdefault(ref, not ref.startswith("#")):
            return False
        if not all(map(can_end, items(schema, "allOf"))):
            return False
        for name in ("anyOf", "oneOf"):
            if (options := items(schema, name)) and not any(map(can_end, options)):
                return False
        checks = {"object": object_can, "array": array_can}
        types = items(schema, "type") or [schema.get("type")]
        return any(checks[each](schema) if each in ("object", "array") else True for each in types)

    def object_can(schema: Mapping[str, Any]) -> bool:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return all(can_end(properties.get(name)) for name in items(schema, "required") if isinstance(name, str))

    def array_can(schema: Mapping[str, Any]) -> bool:
        least = schema.get("minItems")
        if not isinstance(least, int) or not least:
            return True
        first = items(schema, "prefixItems")[:least]
        return all(map(can_end, first)) and (len(first) == least or can_end(schema.get("items")))

    before: dict[str, bool] | None = None
    while not (end := can_end(root)) and before != ends:
        before = dict(ends)
        for ref in [ref for ref in ends if not ends[ref]]:
            ends[ref] = can_end(target(root, ref))
    return end


def items(schema: Mapping[str, Any], name: str) -> list[Any]:
    """The list under a keyword; empty if there is none."""
    return value if isinstance(value := schema.get(name), list) else []
