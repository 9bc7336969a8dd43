"""Make random JSON schemas."""

from __future__ import annotations

from typing import Any

import numpy as np


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
