"""JSON schemas as grammars: a text that fits is JSON and valid under the schema.

Objects have their properties in the schema's order, and no others unless `additionalProperties` allows them
(as in llama.cpp, because models would invent some). `oneOf` is read as `anyOf`. `format` is enforced for
dates, times, UUIDs and IPv4 addresses. Keywords that don't restrict the value (`title`, `default`, …) are
ignored; those that restrict a value and aren't supported are refused by name.

Source: JSON Schema 2020-12, core and validation; llama.cpp, common/json-schema-to-grammar.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llmlite.errors import GrammarError
from llmlite.grammar import numbers, regex
from llmlite.grammar.expressions import (
    MAX_COUNT,
    MAX_DEPTH,
    MAX_SOURCE,
    NOTHING,
    Expression,
    Repeat,
    Rule,
    choice,
    optional,
    sequence,
)
from llmlite.grammar.json_text import (
    CHAR,
    COMMA,
    FORMATS,
    SPACE,
    STRING,
    checked_text,
    escaped,
    listed,
    other_names,
)
from llmlite.grammar.schema_document import OF_TYPE, RESTRICTING, TYPES, SchemaDocument, same

MAX_RULES = 20_000


def rules_of(schema: Mapping[str, Any] | bool | str) -> dict[str, Expression]:
    """Turn a schema into rules.

    Args:
        schema: the result of json.loads, or its text.

    Raises:
        GrammarError: a part of the schema is wrong or not supported; names its place ("#/properties/age").
    """
    if isinstance(schema, str):
        if len(schema) > MAX_SOURCE:
            raise GrammarError(f"schema: expected at most {MAX_SOURCE} characters, got {len(schema)}")
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"schema: not JSON: {error}") from None
    try:
        return _Converter(schema).rules
    except RecursionError:
        raise GrammarError(f"schema: more than {MAX_DEPTH} nested schemas") from None


class _Converter(SchemaDocument):
    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.rules: dict[str, Expression] = {}
        self.rules["value"] = choice(
            Rule("object"), Rule("array"), STRING, numbers.NUMBER, "true", "false", "null"
        )
        member = sequence(STRING, ":", SPACE, Rule("value"))
        self.rules["object"] = listed("{", member, 0, None, "}")
        self.rules["array"] = listed("[", Rule("value"), 0, None, "]")
        self.rules["root"] = self.schema(schema, "#", 0)

    def schema(self, schema: Any, where: str, depth: int) -> Expression:
        """Return the expression of a schema."""
        if depth > MAX_DEPTH:
            raise GrammarError(f"schema, {where:.200}: more than {MAX_DEPTH} nested schemas")
        self.count()
        if schema is True:
            return Rule("value")
        if schema is False:
            return NOTHING
        if not isinstance(schema, Mapping):
            raise GrammarError(f"schema, {where}: expected an object, true or false, got {schema!r:.80}")
        self.check(schema, where)
        if (
            "$ref" in schema
            and not RESTRICTING & set(schema)
            and not {"allOf", "anyOf", "oneOf"} & set(schema)
        ):
            return self.reference(schema["$ref"], where, depth)
        if "$ref" in schema or "allOf" in schema:
            return self.schema(self.merged(schema, where, depth), where, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                base = {key: value for key, value in schema.items() if key != keyword}
                branches = self.listed(schema[keyword], f"{where}/{keyword}")
                return choice(
                    *(
                        self.schema(
                            self.both(base, branch, where, depth), f"{where}/{keyword}/{n}", depth + 1
                        )
                        for n, branch in enumerate(branches)
                    )
                )
        if "const" in schema or "enum" in schema:
            return self.constants(schema, where)
        return choice(*(self.of_type(kind, schema, where, depth) for kind in self.kinds(schema, where)))

    def kinds(self, schema: Mapping[str, Any], where: str) -> list[str]:
        """Return the types a value may have; without "type", those that the keywords apply to, or all."""
        found = schema.get("type")
        if found is None:
            spoken = [
                kind for kind, keywords in OF_TYPE.items() if any(keyword in schema for keyword in keywords)
            ]
            return spoken or ["any"]
        listed = [found] if isinstance(found, str) else self.listed(found, f"{where}/type")
        for kind in listed:
            if kind not in TYPES:
                raise GrammarError(
                    f"schema, {where}/type: expected one of {', '.join(TYPES)}; got {kind!r:.80}"
                )
        return list(dict.fromkeys(listed))

    def of_type(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> Expression:
        match kind:
            case "any":
                return Rule("value")
            case "object":
                return self.object(schema, where, depth)
            case "array":
                return self.array(schema, where, depth)
            case "string":
                return self.string(schema, where)
            case "integer" | "number":
                return self.number(kind, schema, where)
            case "boolean":
                return choice("true", "false")
        return choice("null")

    def reference(self, reference: Any, where: str, depth: int) -> Expression:
        name = f"schema {reference}"
        if name not in self.rules:
            target = self.target(reference, where)
            if len(self.rules) > MAX_RULES:
                raise GrammarError(f"schema: more than {MAX_RULES} parts")
            self.rules[name] = NOTHING  # so that a reference to itself inside it finds the name
            self.rules[name] = self.schema(target, reference, depth + 1)
        return Rule(name)

    def constants(self, schema: Mapping[str, Any], where: str) -> Expression:
        values = [schema["const"]] if "const" in schema else self.listed(schema["enum"], f"{where}/enum")
        if "const" in schema and "enum" in schema:
            values = [value for value in values if any(same(value, other) for other in schema["enum"])]
        others = sorted((RESTRICTING - {"type", "enum", "const", "format"}) & set(schema))
        if others:
            raise GrammarError(f"schema, {where}: {others[0]!r} beside 'enum' or 'const' isn't supported")
        if "type" in schema:
            kinds = self.kinds(schema, where)
            values = [value for value in values if any(_is_of(value, kind) for kind in kinds)]
        texts = []
        for value in values:
            try:
                texts.append(json.dumps(value, ensure_ascii=False, allow_nan=False))
                texts[-1].encode()
            except (TypeError, ValueError) as error:
                raise GrammarError(
                    f"schema, {where}: {value!r:.80} can't be written as JSON: {error}"
                ) from None
        return choice(*texts) if texts else NOTHING

    def object(self, schema: Mapping[str, Any], where: str, depth: int) -> Expression:
        properties = schema.get("properties", {})
        required = self.listed(schema.get("required", []), f"{where}/required", empty=True)
        extra = schema.get("additionalProperties", not properties and not required)
        if not properties and not required:
            member = sequence(STRING, ":", SPACE, self.named(extra, f"{where}/additionalProperties", depth))
            low, high = self.bounds(schema, "minProperties", "maxProperties", where)
            if extra is False:
                return listed("{", NOTHING, low, 0 if low == 0 else None, "}")
            return listed("{", member, low, high, "}")
        if schema.get("additionalProperties") is False and not set(required) <= set(properties):
            return NOTHING
        all_names = dict.fromkeys([*properties, *required])
        low, high = self.bounds(schema, "minProperties", "maxProperties", where)
        n_least, n_most = len(set(required)), len(all_names) if extra is False else None
        if low > n_least or (high is not None and (n_most is None or high < n_most)):
            raise GrammarError(
                f"schema, {where}: minProperties and maxProperties beside properties aren't supported"
            )
        members = []
        for name in all_names:
            part = properties.get(name, True if extra is False else extra)
            value = self.named(part, f"{where}/properties/{name}", depth)
            key = json.dumps(name, ensure_ascii=False)
            members.append((sequence(checked_text(key, where), ":", SPACE, value), name in required))
        more: Expression | None = None
        if extra is not False:
            value = self.named(extra, f"{where}/additionalProperties", depth)
            more = sequence('"', other_names(list(all_names)), '"', ":", SPACE, value)
        return sequence("{", SPACE, self.members(members, more, where), "}")

    def members(
        self, members: list[tuple[Expression, bool]], more: Expression | None, where: str
    ) -> Expression:
        """Return members in order, with commas between those present. Steps are rules, so sizes add up."""
        first: Expression = sequence()  # before any member
        later: Expression = sequence()  # after a member
        if more is not None:
            later = Repeat(sequence(COMMA, more, SPACE), 0, None)
            first = optional(sequence(more, SPACE, later))
        for n in range(len(members) - 1, -1, -1):
            member, is_required = members[n]
            later = self.rule(later, f"{where} after {n}")
            with_first = sequence(member, SPACE, later)
            with_later = sequence(COMMA, member, SPACE, later)
            if is_required:
                first, later = with_first, with_later
            else:
                first = choice(with_first, self.rule(first, f"{where} from {n + 1}"))
                later = choice(with_later, later)
        return first

    def rule(self, expression: Expression, name: str) -> Rule:
        if len(self.rules) > MAX_RULES:
            raise GrammarError(f"schema: more than {MAX_RULES} parts")
        while name in self.rules:
            name += "'"
        self.rules[name] = expression
        return Rule(name)

    def named(self, schema: Any, where: str, depth: int) -> Expression:
        """Return a schema inside another one as a separate rule, unless it is one already."""
        found = self.schema(schema, where, depth + 1)
        return found if isinstance(found, Rule) else self.rule(found, where)

    def array(self, schema: Mapping[str, Any], where: str, depth: int) -> Expression:
        low, high = self.bounds(schema, "minItems", "maxItems", where)
        if schema.get("uniqueItems") and (high is None or high > 1):
            raise GrammarError(f"schema, {where}: 'uniqueItems' isn't supported")
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(items, list):  # until draft 2019-09
            prefix, items = items, schema.get("additionalItems", False)
        elif prefix and "items" not in schema:
            items = False
        if not prefix:
            if items is False:
                return listed("[", NOTHING, low, 0 if low == 0 else None, "]")
            return listed("[", self.named(items, f"{where}/items", depth), low, high, "]")
        fixed = [self.named(item, f"{where}/prefixItems/{n}", depth) for n, item in enumerate(prefix)]
        n = len(fixed)
        if high is not None and high < n:
            fixed, n, items = fixed[:high], high, False
        separated: list[Expression] = []
        for item in fixed:
            separated += [*([COMMA] if separated else []), item, SPACE]
        if items is not False and (high is None or high > n):
            item = self.named(items, f"{where}/items", depth)
            rest = None if high is None else high - n
            separated.append(Repeat(sequence(COMMA, item, SPACE), max(0, low - n), rest))
        elif low > n:
            return NOTHING
        return sequence("[", SPACE, *separated, "]")

    def string(self, schema: Mapping[str, Any], where: str) -> Expression:
        low, high = self.bounds(schema, "minLength", "maxLength", where)
        pattern = schema.get("pattern")
        form = FORMATS.get(schema.get("format", "")) if isinstance(schema.get("format", ""), str) else None
        if pattern is None and form is None:
            return NOTHING if high is not None and high < low else sequence('"', Repeat(CHAR, low, high), '"')
        if low or high is not None or (pattern is not None and form is not None):
            raise GrammarError(f"schema, {where}: a pattern or format beside another limit isn't supported")
        try:
            inner = regex.parse(pattern, search=True) if pattern is not None else regex.parse(form or "")
        except GrammarError as error:
            raise GrammarError(f"schema, {where}/pattern: {error}") from None
        except TypeError:
            raise GrammarError(f"schema, {where}/pattern: expected text, got {pattern!r:.80}") from None
        return sequence('"', regex.map_chars(inner, escaped), '"')

    def number(self, kind: str, schema: Mapping[str, Any], where: str) -> Expression:
        low, low_open = self.bound(schema, "minimum", "exclusiveMinimum", where, max)
        high, high_open = self.bound(schema, "maximum", "exclusiveMaximum", where, min)
        try:
            if kind == "number":
                return numbers.decimals(low, high, low_open, high_open)
            least = None if low is None else _whole(low, up=True, open_end=low_open)
            most = None if high is None else _whole(high, up=False, open_end=high_open)
            return numbers.integers(least, most)
        except GrammarError as error:
            raise GrammarError(f"schema, {where}: {error}") from None

    def bound(self, schema: Mapping[str, Any], closed: str, is_open: str, where: str, tighter: Any) -> Any:
        found: list[tuple[Decimal, bool]] = []
        for keyword in (closed, is_open):
            value = schema.get(keyword)
            if value is None or value is False:
                continue
            if value is True and keyword == is_open:  # draft 4: the other keyword's bound is open
                found = [(number, True) for number, _ in found]
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
                raise GrammarError(f"schema, {where}/{keyword}: expected a finite number, got {value!r:.80}")
            found.append(
                (Decimal(repr(value)) if isinstance(value, float) else Decimal(value), keyword == is_open)
            )
        if not found:
            return None, False
        number = tighter(number for number, _ in found)
        return number, (number, True) in found

    def bounds(self, schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
        found: list[int | None] = []
        for keyword in (low, high):
            value = schema.get(keyword)
            whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
            if value is not None and not whole:
                got = f"{value!r:.80}"
                raise GrammarError(f"schema, {where}/{keyword}: expected 0 to {MAX_COUNT}, got {got}")
            found.append(value)
        return found[0] or 0, found[1]


def _is_of(value: Any, kind: str) -> bool:
    match kind:
        case "integer":
            return _is_of(value, "number") and value - value == 0 and value == int(value)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "object":
            return isinstance(value, Mapping)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
    return value is None


def _whole(bound: Decimal, *, up: bool, open_end: bool) -> int:
    """Return the nearest integer inside a bound."""
    if abs(bound.adjusted()) > 2 * numbers.MAX_BOUND_DIGITS:
        raise GrammarError(f"a bound of an integer: expected at most {numbers.MAX_BOUND_DIGITS} digits")
    whole = int(bound)  # towards 0
    if up:
        whole += bound > whole or (open_end and bound == whole)
    else:
        whole -= bound < whole or (open_end and bound == whole)
    return whole
