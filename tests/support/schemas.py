"""Make random JSON schemas."""

from __future__ import annotations

import random as plain
from collections.abc import Callable
from typing import Any

import numpy as np

TYPES = ["integer", "number", "string", "boolean", "null", "array", "object"]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 5, -1, 1.5, 2.5),
    *("", "a", "ab", "abc", "b", "aab", "\n", '"', "é"),
    *([], [1], [1, 2], ["a"], [1, 2, 3], [None], [1, "a"], [[], []]),
    *({}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"a": "x"}, {"a": None, "b": "a"}, {"c": 1}),
]


def random_schema(random: np.random.Generator, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "pattern"]
    kinds += ["object", "array", "anyOf", "map"] if depth < 3 else []
    kind = random.choice(kinds)
    low, high = sorted(random.integers(-300, 300, 2).tolist())
    size = sorted(random.integers(0, 6, 2).tolist())
    match kind:
        case "string":
            return {"type": "string"} | (
                {"minLength": size[0], "maxLength": size[1]} if random.random() < 0.5 else {}
            )
        case "pattern":
            pattern = str(random.choice(["^a+b?$", "x{2,3}", r"^\d{2}-[^a-z]$", "cat|dog", '^"?\\\\n*$']))
            return {"type": "string", "pattern": pattern}
        case "integer":
            return {"type": "integer"} | ({"minimum": low, "maximum": high} if random.random() < 0.7 else {})
        case "number":
            bounds = {"minimum": low / 8, "exclusiveMaximum": high / 8 + 0.001}
            return {"type": "number"} | dict(list(bounds.items())[: random.integers(0, 3)])
        case "enum":
            return {"enum": ["é", 1, None, 'a"b', [1, {"x": 2}]][: random.integers(1, 6)]}
        case "object":
            names = [f"k{n}" for n in range(random.integers(1, 5))]
            return {
                "type": "object",
                "properties": {name: random_schema(random, depth + 1) for name in names},
                "required": [name for name in names if random.random() < 0.5],
                "additionalProperties": bool(random.random() < 0.2),
            }
        case "map":
            return {"type": "object", "additionalProperties": random_schema(random, depth + 1)}
        case "array":
            return {
                "type": "array",
                "items": random_schema(random, depth + 1),
                "minItems": size[0],
                "maxItems": size[1],
            }
        case "anyOf":
            return {"anyOf": [random_schema(random, depth + 1) for _ in range(2)]}
    return {"type": str(kind)}


def demand(random: plain.Random) -> dict[str, Any]:
    """A schema of one keyword."""
    choose = random.choice
    makers: list[Callable[[], dict[str, Any]]] = [
        dict,
        lambda: {"type": choose(TYPES)},
        lambda: {"type": random.sample(TYPES, random.randint(1, 3))},
        lambda: {choose(["minimum", "exclusiveMinimum"]): choose([0, 1, 1.5, 2])},
        lambda: {choose(["maximum", "exclusiveMaximum"]): choose([1, 2, 2.5, 3])},
        lambda: {choose(["minLength", "maxLength", "minItems", "maxItems"]): random.randint(0, 2)},
        lambda: {choose(["minProperties", "maxProperties"]): random.randint(0, 2)},
        lambda: {"pattern": choose(["^a", "b$", "a|b", "^a?$", "^(a|ab)$", "[^a]", "^$", "^.b"])},
        lambda: {"enum": random.sample(VALUES, random.randint(1, 4))},
        lambda: {"const": choose(VALUES)},
        lambda: {"required": random.sample(["a", "b"], random.randint(0, 2))},
        lambda: {"properties": {name: demand(random) for name in random.sample(["a", "b"], 1)}},
        lambda: {"additionalProperties": choose([True, False, {"type": "integer"}])},
        lambda: {choose(["items", "additionalProperties"]): demand(random)},
        lambda: {"prefixItems": [demand(random) for _ in range(random.randint(1, 2))]},
    ]
    return choose(makers)()


def combined_schema(random: plain.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of several demands, which need not fit together, in allOf, anyOf and $ref too."""
    found = {key: value for _ in range(random.randint(1, 3)) for key, value in demand(random).items()}
    if depth < 2 and random.random() < 0.5:
        parts = [combined_schema(random, depth + 1) for _ in range(random.randint(1, 3))]
        found[random.choice(["allOf", "anyOf"])] = parts
    if depth == 0 and random.random() < 0.3:
        found |= {"$defs": {"x": combined_schema(random, 1)}, "$ref": "#/$defs/x"}
    return found
