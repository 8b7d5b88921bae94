"""Reads JSON Schemas as users have them, and writes them so that llguidance enforces all of them.

llguidance ignores keywords that it does not know, rounds large numbers, and takes 2021-02-29 for a date. Here each
keyword is enforced, or known not to restrict anything, or refused.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from eftlocal.decoding.constraints import numbers
from eftlocal.decoding.constraints.formats import FORMATS, LLGUIDANCES, LOOSE
from eftlocal.decoding.constraints.references import can_finish, items, references, tables, target
from eftlocal.errors import SettingError

__all__ = ["LENIENT", "ends_in_escape", "enforceable", "patterns", "unwrapped"]

# Where a schema holds other schemas: one, a list of them, or a table of them.
ONE = {"additionalProperties", "additionalItems", "items"}
LISTS = {"anyOf", "oneOf", "allOf", "prefixItems", "items"}
TABLES = {"properties", "patternProperties", "$defs", "definitions"}
VALUES = {
    *("$ref", "$id", "$anchor", "const", "enum", "type", "required", "minItems", "maxItems", "minProperties"),
    *("maxProperties", "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "multipleOf"),
}
# These say something about a value, but do not restrict it. The draft ($schema) changes nothing that is enforced.
NOTES = {
    *("$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("example", "externalDocs", "xml", "discriminator"),  # OpenAPI
}
# Keywords of JSON Schema that nothing enforces, each with values that restrict nothing.
UNENFORCED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "minContains", "maxContains", "dependencies"), ()),
    **dict.fromkeys(("dependentRequired", "dependentSchemas"), ({},)),
    **dict.fromkeys(("propertyNames", "unevaluatedProperties", "unevaluatedItems"), (True, {})),
    **dict.fromkeys(("contentEncoding", "contentMediaType", "contentSchema"), ()),
    **dict.fromkeys(("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary"), ()),
    "uniqueItems": (False,),
}
MERGING = {"$ref", "anyOf", "oneOf"}  # keywords whose schemas llguidance merges with the keywords beside them
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
COUNTS = {"minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"}
HUGE = 10**9  # characters, items or properties
KNOWN = ONE | LISTS | TABLES | VALUES | NOTES | {"nullable"}

LENIENT = 'put "x-guidance": {"lenient": true} in the schema to ignore it; then answers may violate it.'


def unwrapped(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema in a `response_format` of OpenAI's API, or in a part of one; any other schema as it is."""
    for name in ("response_format", "json_schema"):
        if isinstance(inner := value.get(name), Mapping) and value.keys() <= {name, "type"}:
            return unwrapped(inner)
    if isinstance(inner := value.get("schema"), Mapping) and (
        value.get("type", "json_schema") == "json_schema"
        and value.keys() <= {"type", "name", "description", "strict", "schema"}
    ):
        return inner
    return value


def enforceable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as llguidance should get it. Raises SettingError for what would not be enforced."""
    guidance = schema.get("x-guidance")
    if "x-guidance" in schema and not isinstance(guidance, Mapping):
        raise SettingError(f'The JSON schema cannot be used: "x-guidance" is {guidance!r}; it must be an object.')
    written = _Writer(schema, lenient=isinstance(guidance, Mapping) and guidance.get("lenient") is True).schema()
    if not can_finish(written):
        raise SettingError(
            "The JSON schema cannot be used: nothing can satisfy it: each value would have to hold another value.",
            "Let the recursion end: make a property optional, or allow null.",
        )
    return written if guidance is None else {**written, "x-guidance": guidance}


def patterns(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, regular expression) of each pattern in a schema."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "pattern" and isinstance(inner, str):
                yield path, inner
            elif name == "patternProperties" and isinstance(inner, Mapping):
                yield from ((f"{path}/{name}", each) for each in inner)
            if name not in NOTES | {"const", "enum"}:
                yield from patterns(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from patterns(inner, f"{path}/{i}")


def ends_in_escape(pattern: str) -> bool:
    """Whether a regex ends in a backslash that escapes nothing. llguidance ignores it."""
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


class _Writer:
    """Writes one schema. The order of keywords stays: llguidance takes the order of properties from it."""

    def __init__(self, root: Mapping[str, Any], *, lenient: bool) -> None:
        self._root = root
        self._lenient = lenient
        self._targets = set(references(root))
        objects = list(tables(root))
        self._merged = any("allOf" in table or (table.keys() & MERGING and table.keys() & BOUNDS) for table in objects)
        self._multiples = [table["multipleOf"] for table in objects if "multipleOf" in table] if self._merged else []

    def schema(self) -> dict[str, Any]:
        written: dict[str, Any] = self._schema(self._root, "")
        names = [name for table in ("$defs", "definitions") for name in self._root.get(table) or ()]
        if names and not written.keys() - {"$defs", "definitions", "$id", "$anchor"}:
            table = "$defs" if "$defs" in self._root else "definitions"
            self._refuse(
                f"it only defines {', '.join(names[:3])}, and uses none of its definitions",
                "",
                f'Add "$ref": "#/{table}/{names[0]}" to the schema.',
            )
        return written

    def _schema(self, value: Any, path: str) -> Any:
        """One schema in the whole one. What is not a schema stays as it is: llguidance refuses it."""
        if not isinstance(value, Mapping):
            return value
        found: dict[str, Any] = {}
        for name, inner in value.items():
            if self._is_kept(name, inner, path):
                found[name] = self._inner(name, inner, f"{path}/{name}")
        try:
            found = numbers.bounded(found, merged=self._merged)
            numbers.combined(self._multiples)
            for name in found.keys() & {"const", "enum"}:
                found[name] = _constants(found[name], name)
        except numbers.NumberError as error:
            self._refuse(str(error), path, error.hint)
        if isinstance(pattern := found.get("pattern"), str) and ends_in_escape(pattern):
            self._refuse('"pattern" ends in a backslash', path, r"Write \\ for a backslash.")
        self._check_counts(found, path)
        if self._are_told_apart(items(found, "oneOf")) and "anyOf" not in found:
            found = {"anyOf" if name == "oneOf" else name: inner for name, inner in found.items()}
        return _nullable(self._formatted(found, path))

    def _is_kept(self, name: str, value: Any, path: str) -> bool:
        """Whether llguidance should get this keyword. Raises SettingError for one that it would not enforce."""
        if name in NOTES or name.startswith("x-") or (name == "id" and isinstance(value, str)):
            return False
        if name == "nullable" and not isinstance(value, bool):
            self._refuse(f'"nullable" is {value!r}; it must be true or false', path)
        if name in KNOWN or (not path and any(target.startswith(f"/{name}/") for target in self._targets)):
            return True
        if self._lenient or any(value is each or (value == each == {}) for each in UNENFORCED.get(name, ())):
            return False
        if name in UNENFORCED:
            self._refuse(f'"{name}" cannot be enforced', path, f"Leave it out, or {LENIENT}")
        near = get_close_matches(name, KNOWN | UNENFORCED.keys(), 1)
        meant = f'Did you mean "{near[0]}"? Or' if near else "Leave it out, or"
        problem = f'"{name}" is not a keyword of JSON Schema that can be enforced'
        return self._refuse(problem, path, f"{meant} {LENIENT}")

    def _inner(self, name: str, value: Any, path: str) -> Any:
        if name in ("anyOf", "oneOf", "allOf", "prefixItems", "enum", "required") and not isinstance(value, list):
            self._refuse(f'"{name}" is {value!r}; it must be an array', path)
        if name == "type" and not (isinstance(value, str) or _are_names(value)):
            self._refuse(f'"type" is {value!r}; it must be a name or an array of names', path)
        if name in TABLES:
            if not isinstance(value, Mapping):
                self._refuse(f'"{name}" is {value!r}; it must be an object', path)
            return {key: self._schema(each, f"{path}/{key}") for key, each in value.items()}
        if name in LISTS and isinstance(value, list):
            return [self._schema(each, f"{path}/{i}") for i, each in enumerate(value)]
        if name in ONE:
            return self._schema(value, path)
        return value if name in KNOWN else self._holder(value, path)

    def _holder(self, value: Any, path: str) -> Any:
        """A table, like OpenAPI's `components`, that holds schemas somewhere inside: those that a $ref names."""
        if path in self._targets:
            return self._schema(value, path)
        if not isinstance(value, Mapping):
            return value
        return {key: self._holder(each, f"{path}/{key}") for key, each in value.items()}

    def _formatted(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """The schema with the formats that llguidance does not enforce as patterns."""
        name = schema.get("format")
        if not isinstance(name, str):
            return schema
        types = schema.get("type", "string")
        rest = {key: value for key, value in schema.items() if key != "format"}
        if name in LOOSE:
            return rest
        known = name in FORMATS or name in LLGUIDANCES
        if self._lenient and not known:
            return rest
        if known and "string" not in ([types] if isinstance(types, str) else types) and not self._lenient:
            self._refuse(
                f'the format "{name}" is for a "string", but the type is {types}', path, "Leave one of them out."
            )
        if not known:
            names = (*FORMATS, *LLGUIDANCES, *numbers.FORMATS)
            near = get_close_matches(name, names, 1)
            meant = f'Did you mean "{near[0]}"? Or' if near else 'Use "pattern" instead, or'
            self._refuse(
                f'the format "{name}" cannot be enforced (only {", ".join(names)} can)', path, f"{meant} {LENIENT}"
            )
        if name == "hostname":
            return {**schema, "allOf": [*items(schema, "allOf"), {"maxLength": 253}]}
        return schema if name in LLGUIDANCES else {**rest, "allOf": [*items(rest, "allOf"), *FORMATS[name]]}

    def _are_told_apart(self, options: list[Any]) -> bool:
        """Whether a required property has other constants in each alternative. Then `oneOf` is `anyOf`."""
        seen: dict[str, list[Any]] = {}  # property -> its constants in each alternative
        for option in options:
            ref = option.get("$ref") if isinstance(option, Mapping) else None
            table = target(self._root, ref) if isinstance(ref, str) else option
            if not isinstance(table, Mapping) or table.get("type") != "object":
                return False
            properties = table.get("properties")
            for name in items(table, "required"):
                inner = properties.get(name) if isinstance(properties, Mapping) and isinstance(name, str) else None
                if isinstance(inner, Mapping) and ("const" in inner or "enum" in inner):
                    values = [inner["const"]] if "const" in inner else items(inner, "enum")
                    seen.setdefault(name, []).append(values)
        return any(
            len(lists) == len(options) > 0
            and all(isinstance(value, str) for values in lists for value in values)
            and len({value for values in lists for value in values}) == sum(map(len, lists))
            for lists in seen.values()
        )

    def _check_counts(self, schema: dict[str, Any], path: str) -> None:
        """Remove upper limits that no answer reaches, and refuse lower ones that llguidance does not enforce.

        llguidance counts a property twice that is written twice; only those of `properties` and `required` cannot be.
        """
        for name in COUNTS & schema.keys():
            if type(schema[name]) is int and schema[name] >= HUGE:
                if name.startswith("min"):
                    self._refuse(f'"{name}" is {schema[name]}; it must be below {HUGE}', path)
                del schema[name]
        least, most = schema.get("minProperties"), schema.get("maxProperties")
        required = {name for name in items(schema, "required") if isinstance(name, str)}
        closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        if self._lenient or closed or type(least) is not int or (type(most) is int and most < least):
            return
        if least > len(required) + 1:
            self._refuse(
                f'"minProperties" is {least}, but {len(required)} properties are required: the same property could be '
                "written twice",
                path,
                f'List the properties in "required", or {LENIENT}',
            )

    def _refuse(self, problem: str, path: str, hint: str | None = None) -> NoReturn:
        place = f" (at {path})" if path else ""
        raise SettingError(f"The JSON schema cannot be used: {problem.rstrip('.')}{place}.", hint)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _constants(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _constants(each, name) for key, each in value.items()}
    if isinstance(value, list):
        return [_constants(each, name) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return numbers.constant(value, name)
    return value


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with OpenAPI's `nullable` written as JSON Schema: each keyword that forbids null allows it."""
    if not (isinstance(schema.get("nullable"), bool) and schema.pop("nullable")):
        return schema
    found: dict[str, Any] = {}
    null = {"type": "null"}
    for name, value in schema.items():
        if name == "type":
            found["type"] = list(dict.fromkeys([*([value] if isinstance(value, str) else items(schema, name)), "null"]))
        elif name == "enum":
            found["enum"] = [*items(schema, name), None]
        elif name == "const":
            found["enum"] = [value, None]
        elif name in ("anyOf", "oneOf"):
            found[name] = [*items(schema, name), null]
        elif name in ("$ref", "allOf"):
            found.setdefault("allOf", []).append({"anyOf": [{name: value}, null]})
        else:
            found[name] = value
    return found
