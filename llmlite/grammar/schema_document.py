"""A JSON schema as a document: the targets of its references, and the union of several schemas' demands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmlite.errors import GrammarError
from llmlite.grammar.expressions import MAX_DEPTH

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
REFUSED = (
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems", "contains", "minContains", "maxContains", "patternProperties", "propertyNames",
    "multipleOf", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
OF_TYPE = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # the kind of each keyword's value
    "properties": (lambda value: isinstance(value, Mapping), "an object"),
    "required": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names"),
    "type": (lambda value: _is_text(value) or (isinstance(value, list) and all(map(_is_text, value))),
             f"one of {', '.join(TYPES)}, or a list of them"),
    **dict.fromkeys(("enum", "anyOf", "oneOf", "allOf"), (lambda value: isinstance(value, list), "a list")),
    **dict.fromkeys(OF_TYPE["number"], (lambda value: isinstance(value, (int, float)), "a finite number")),
}  # fmt: skip
MAX_SCHEMAS = 10_000
RESTRICTING = {keyword for keywords in OF_TYPE.values() for keyword in keywords} | {"type", "enum", "const"}


class SchemaDocument:
    """A whole schema, whose parts may refer to each other by place.

    Attributes:
        document: the schema.
    """

    def __init__(self, document: Any) -> None:
        self.document = document
        self._n_read = 0

    def count(self) -> None:
        """Count a schema that is read or combined with another one.

        Raises:
            GrammarError: there are too many. A few references may ask for millions.
        """
        self._n_read += 1
        if self._n_read > MAX_SCHEMAS:
            raise GrammarError(f"schema: more than {MAX_SCHEMAS} schemas, each branch and reference counted")

    def check(self, schema: Mapping[str, Any], where: str) -> None:
        """Refuse keywords that aren't supported, and values of the wrong kind."""
        for keyword, value in schema.items():
            if keyword in REFUSED:
                raise GrammarError(f"schema, {where}: {keyword!r} isn't supported")
            fits, words = KINDS.get(keyword, (_is_anything, ""))
            if not fits(value):
                raise GrammarError(f"schema, {where}/{keyword}: expected {words}, got {value!r:.80}")

    def target(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise GrammarError(
                f"schema, {where}/$ref: expected a place in the schema (#/$defs/x), got {reference!r:.60}"
            )
        found = self.document
        for part in reference.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise GrammarError(f"schema, {where}/$ref: {reference!r:.200} doesn't exist")
        return found

    def merged(self, schema: Mapping[str, Any], where: str, depth: int) -> Any:
        """Return one schema with the demands of a schema, its reference and its allOf together."""
        found: Any = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = self.listed(schema["allOf"], f"{where}/allOf") if "allOf" in schema else []
        if "$ref" in schema:
            parts = [self.target(schema["$ref"], where), *parts]
        for part in parts:
            found = self.both(found, part, where, depth)
        return found

    def both(self, one: Any, other: Any, where: str, depth: int) -> Any:
        """Return a schema with the demands of two schemas."""
        self.count()
        if depth > MAX_DEPTH:
            raise GrammarError(f"schema, {where:.200}: schemas that refer to each other without end")
        if one is False or other is False:
            return False
        if one is True or one == {}:
            return other
        if other is True or other == {}:
            return one
        for part in (one, other):
            if not isinstance(part, Mapping):
                raise GrammarError(f"schema, {where}: expected an object, true or false, got {part!r:.80}")
            self.check(part, where)
        if "$ref" in other or "allOf" in other:
            return self.both(one, self.merged(other, where, depth + 1), where, depth + 1)
        found = dict(one)
        for key, value in other.items():
            found[key] = value if key not in found else self.combined(key, found[key], value, where, depth)
        if found.get("type") == [] and one.get("type") and other.get("type"):
            return False  # no value has both types
        for part, rest in ((one, other), (other, one)):
            if "prefixItems" in rest and "prefixItems" not in part and part.get("items", True) is not True:
                raise GrammarError(
                    f"schema, {where}: items of one part beside prefixItems of another isn't supported"
                )
        for keyword in ("properties", "required"):
            if keyword in one or keyword in other:
                for part, rest in ((one, other), (other, one)):
                    extra = set(rest.get("properties", {})) - set(part.get("properties", {}))
                    if extra and part.get("additionalProperties", True) is not True:
                        raise GrammarError(
                            f"schema, {where}: additionalProperties of one part beside properties of another "
                            "isn't supported"
                        )
        return found

    def combined(self, key: str, one: Any, other: Any, where: str, depth: int) -> Any:
        """Return the combined demand of two values of the same keyword."""
        if one == other or key not in RESTRICTING | {"anyOf", "oneOf"}:
            return one
        match key:
            case "properties":
                return {
                    name: {"allOf": [one[name], other[name]]} if name in one and name in other else part
                    for name, part in {**one, **other}.items()
                }
            case "required":
                return [*one, *(name for name in other if name not in one)]
            case "minimum" | "exclusiveMinimum" | "minItems" | "minLength" | "minProperties":
                return max(self.numbers(key, one, other, where))
            case "maximum" | "exclusiveMaximum" | "maxItems" | "maxLength" | "maxProperties":
                return min(self.numbers(key, one, other, where))
            case "enum":
                return [value for value in one if any(same(value, wanted) for wanted in other)]
            case "type":
                ones = [one] if isinstance(one, str) else one
                others = [other] if isinstance(other, str) else other
                both = [kind for kind in ones if kind in others]
                mixed = any("integer" in a and "number" in b for a, b in ((ones, others), (others, ones)))
                return both + (["integer"] if mixed and "integer" not in both else [])
            case "items" | "additionalProperties":
                return {"allOf": [one, other]}
        raise GrammarError(f"schema, {where}: two different {key!r} that must both hold aren't supported")

    def numbers(self, key: str, one: Any, other: Any, where: str) -> tuple[Any, Any]:
        for value in (one, other):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise GrammarError(f"schema, {where}/{key}: expected a number, got {value!r:.80}")
        return one, other

    def listed(self, value: Any, where: str, *, empty: bool = False) -> list[Any]:
        if not isinstance(value, list) or not (value or empty):
            raise GrammarError(
                f"schema, {where}: expected a list{'' if empty else ' of at least one'}, got {value!r:.80}"
            )
        return value


def same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_anything(value: Any) -> bool:
    return True
