"""Constraints of every kind for tests, and the tokens that end an answer of the tiny test models."""

from typing import Any

from eftlocal.decoding.constraints.constraint import Constraint
from tests.families import VOCAB

SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "population": {"type": "integer", "minimum": 0, "maximum": 40_000_000},
            "tags": {"type": "array", "items": {"enum": ["city", "capital", "port"]}, "minItems": 1, "maxItems": 3},
            "mayor": {"type": ["string", "null"], "maxLength": 16},
        },
        "required": ["name", "population", "tags"],
        "additionalProperties": False,
    },
    {
        "anyOf": [
            {"type": "string", "format": "date"},
            {"type": "integer", "minimum": 1, "maximum": 9},
            {
                "type": "object",
                "properties": {"k": {"const": "v"}, "t": {"$ref": "#/$defs/tree"}},
                "required": ["k"],
                "additionalProperties": False,
            },
        ],
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"of": {"$ref": "#/$defs/tree"}, "n": {"type": "string", "pattern": "^[a-z]{1,6}$"}},
                "required": ["n"],
                "additionalProperties": False,
            }
        },
    },
]
GBNF = 'root ::= "(" ([a-d] | root){1,3} ")"'
CONSTRAINTS = [
    *map(Constraint.json_schema, SCHEMAS),
    Constraint.grammar(GBNF),
    Constraint.regex(r"[A-Z][a-z]{2,7}(, [A-Z][a-z]{2,7})?!"),
    Constraint.choice(["yes", "no", "yes please", "vielleicht schön"]),
]
ENDS = [VOCAB.tokens.index("<|endoftext|>"), VOCAB.tokens.index("<|im_end|>")]
