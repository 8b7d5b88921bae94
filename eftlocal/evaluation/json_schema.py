"""Whether a value is what a JSON Schema says. The package jsonschema does the work (extra `eval`)."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from eftlocal.decoding.constraints.references import tables
from eftlocal.decoding.constraints.schema import unwrapped
from eftlocal.emulation.from_json import kind
from eftlocal.errors import EftError
from eftlocal.evaluation.needed import MissingPackageError
from eftlocal.text import json_text

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

__all__ = ["checked", "valid"]

Schema = Mapping[str, Any] | bool


def checked(value: object) -> Schema:
    """The schema that a line gives, also in OpenAI's form. Raises EftError if it is none, or needs another file."""
    if value is None:
        raise EftError("check json-schema has no schema", 'Give it with the check: "check": {"json-schema": {...}}.')
    if not isinstance(value, (dict, bool)):
        raise EftError(f"check json-schema is {kind(value)}; a schema is an object")
    schema: Schema = value if isinstance(value, bool) else unwrapped(value)
    if find_spec("jsonschema") is None:
        raise MissingPackageError.extra("Checks by json-schema need the package jsonschema.", "eval")
    from jsonschema.exceptions import SchemaError

    known = {table["$id"] for table in tables(schema) if isinstance(table.get("$id"), str)}
    for table in tables(schema):
        reference = table.get("$ref")
        if isinstance(reference, str) and reference.partition("#")[0] not in {"", *known}:
            raise EftError(f"check json-schema refers to {kind(reference)}, which is not in the schema itself")
    try:
        _validator(json_text(schema)).check_schema(cast(Any, schema))
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "the whole"
        raise EftError(f"check json-schema is no JSON Schema: {error.message[:80]} (at {place})") from None
    except RecursionError:
        raise EftError("check json-schema is nested too deeply") from None
    return schema


def valid(schema: Schema, value: object) -> bool:
    """Whether `value` is valid under a schema that was checked. Raises EftError for a reference to nothing."""
    from referencing.exceptions import Unresolvable

    try:
        return bool(_validator(json_text(schema)).is_valid(cast(Any, value)))
    except RecursionError:
        return False
    except Unresolvable as error:
        raise EftError(f"check json-schema refers to {kind(error.ref)}, which is not in the schema") from None


@lru_cache(64)  # many lines may have the same schema
def _validator(text: str) -> "Validator":
    import json

    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = cast(Schema, json.loads(text))
    made = validator_for(cast(Any, schema), default=Draft202012Validator)
    registry: Registry[Any] = Registry()  # an empty one: the default would ask the network
    return made(cast(Any, schema), registry=registry)
