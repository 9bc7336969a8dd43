"""JSON schemas as grammars: a text that fits is JSON and valid under the schema.

Objects have their properties in the schema's order, and no others unless `additionalProperties` says so
(llama.cpp does the same: models left free invent them). `oneOf` is read as `anyOf`. `format` is obeyed for
dates, times, UUIDs and IPv4 addresses. Keywords that say nothing about the value (`title`, `default`, …) are
passed over; those that restrict a value and can't be obeyed are refused by name.

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
    Chars,
    Expression,
    Repeat,
    Rule,
    chars,
    choice,
    normalized,
    optional,
    sequence,
)

SPACE = choice("", " ", sequence("\n", Repeat(chars("\t", " "), 0, 20)))
COMMA = sequence(",", SPACE)
PLAIN_CHAR = Chars(normalized([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)])).inverted()
HEX = chars("09", "af", "AF")
UNICODE = choice(  # without surrogates: half a character isn't one
    sequence(chars("09", "ac", "ef", "AC", "EF"), Repeat(HEX, 3, 3)),
    sequence(chars("d", "D"), chars("07"), Repeat(HEX, 2, 2)),
)
CHAR = choice(
    PLAIN_CHAR, sequence("\\", choice(chars('"', "\\", "/", "b", "f", "n", "r", "t"), sequence("u", UNICODE)))
)
STRING = sequence('"', Repeat(CHAR, 0, None), '"')
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
FORMATS = {
    "date": r"[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "ipv4": r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
}
FORMATS["date-time"] = f"({FORMATS['date']})T({FORMATS['time']})"
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
RESTRICTING = {keyword for keywords in OF_TYPE.values() for keyword in keywords} | {"type", "enum", "const"}
MAX_RULES = 20_000


def rules_of(schema: Mapping[str, Any] | bool | str) -> dict[str, Expression]:
    """Turn a schema into rules.

    Args:
        schema: as json.loads gives it, or its text.

    Raises:
        GrammarError: the place in the schema ("#/properties/age"), and what is wrong or not supported there.
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
        raise GrammarError(f"schema: more than {MAX_DEPTH} schemas in one another") from None


class _Converter:
    def __init__(self, schema: Any) -> None:
        self.document = schema
        self.rules: dict[str, Expression] = {}
        self.rules["value"] = choice(
            Rule("object"), Rule("array"), STRING, numbers.NUMBER, "true", "false", "null"
        )
        member = sequence(STRING, ":", SPACE, Rule("value"))
        self.rules["object"] = _listed("{", member, 0, None, "}")
        self.rules["array"] = _listed("[", Rule("value"), 0, None, "]")
        self.rules["root"] = self.schema(schema, "#", 0)

    def schema(self, schema: Any, where: str, depth: int) -> Expression:
        """The expression of a schema."""
        if depth > MAX_DEPTH:
            raise GrammarError(f"schema, {where:.200}: more than {MAX_DEPTH} schemas in one another")
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

    def check(self, schema: Mapping[str, Any], where: str) -> None:
        for keyword in schema:
            if keyword in REFUSED:
                raise GrammarError(f"schema, {where}: {keyword!r} isn't supported")

    def kinds(self, schema: Mapping[str, Any], where: str) -> list[str]:
        """The types a value may have; without "type", those that the keywords speak of, or all."""
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
            self.rules[name] = NOTHING  # a reference to itself inside finds the name
            self.rules[name] = self.schema(target, reference, depth + 1)
        return Rule(name)

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
                raise GrammarError(f"schema, {where}/$ref: {reference!r:.200} isn't there")
        return found

    def merged(self, schema: Mapping[str, Any], where: str, depth: int) -> Any:
        """One schema that demands what a schema, its reference and its allOf demand together."""
        found: Any = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = self.listed(schema["allOf"], f"{where}/allOf") if "allOf" in schema else []
        if "$ref" in schema:
            parts = [self.target(schema["$ref"], where), *parts]
        for part in parts:
            found = self.both(found, part, where, depth)
        return found

    def both(self, one: Any, other: Any, where: str, depth: int) -> Any:
        """A schema that demands what two schemas demand."""
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
        if "$ref" in other or "allOf" in other:
            self.check(other, where)
            return self.both(one, self.merged(other, where, depth + 1), where, depth + 1)
        found = dict(one)
        for key, value in other.items():
            found[key] = value if key not in found else self.combined(key, found[key], value, where, depth)
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
        """What two values of the same keyword demand together."""
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
                return max(one, other)
            case "maximum" | "exclusiveMaximum" | "maxItems" | "maxLength" | "maxProperties":
                return min(one, other)
            case "enum":
                return [value for value in one if any(_same(value, wanted) for wanted in other)]
            case "type":
                ones = [one] if isinstance(one, str) else one
                others = [other] if isinstance(other, str) else other
                both = [kind for kind in ones if kind in others]
                mixed = {"integer", "number"} <= {*ones, *others} - set(both)
                return both + (["integer"] if mixed else [])
            case "items" | "additionalProperties":
                return {"allOf": [one, other]}
        raise GrammarError(f"schema, {where}: two different {key!r} that must both hold aren't supported")

    def constants(self, schema: Mapping[str, Any], where: str) -> Expression:
        values = [schema["const"]] if "const" in schema else self.listed(schema["enum"], f"{where}/enum")
        if "const" in schema and "enum" in schema:
            values = [value for value in values if any(_same(value, other) for other in schema["enum"])]
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
        if not isinstance(properties, Mapping):
            raise GrammarError(f"schema, {where}/properties: expected an object, got {properties!r:.80}")
        required = self.listed(schema.get("required", []), f"{where}/required", empty=True)
        extra = schema.get("additionalProperties", not properties and not required)
        if not properties and not required:
            member = sequence(STRING, ":", SPACE, self.named(extra, f"{where}/additionalProperties", depth))
            low, high = self.bounds(schema, "minProperties", "maxProperties", where)
            if extra is False:
                return _listed("{", NOTHING, low, 0 if low == 0 else None, "}")
            return _listed("{", member, low, high, "}")
        all_names = dict.fromkeys([*properties, *required])
        for name in required:
            if not isinstance(name, str):
                raise GrammarError(f"schema, {where}/required: expected names, got {name!r:.80}")
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
            members.append((sequence(_text(key, where), ":", SPACE, value), name in required))
        more: Expression | None = None
        if extra is not False:
            value = self.named(extra, f"{where}/additionalProperties", depth)
            more = sequence('"', _other_names(list(all_names)), '"', ":", SPACE, value)
        return sequence("{", SPACE, self.members(members, more, where), "}")

    def members(
        self, members: list[tuple[Expression, bool]], more: Expression | None, where: str
    ) -> Expression:
        """Members in order, with commas between those that are there. Steps are rules, so sizes add up."""
        first: Expression = sequence()  # nothing is written yet
        later: Expression = sequence()  # something is
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
        """A schema inside another one, as a rule of its own unless it is one."""
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
                return _listed("[", NOTHING, low, 0 if low == 0 else None, "]")
            return _listed("[", self.named(items, f"{where}/items", depth), low, high, "]")
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
            return sequence('"', Repeat(CHAR, low, high), '"')
        if low or high is not None or (pattern is not None and form is not None):
            raise GrammarError(f"schema, {where}: a pattern or format beside another limit isn't supported")
        try:
            inner = regex.parse(pattern, search=True) if pattern is not None else regex.parse(form or "")
        except GrammarError as error:
            raise GrammarError(f"schema, {where}/pattern: {error}") from None
        except TypeError:
            raise GrammarError(f"schema, {where}/pattern: expected text, got {pattern!r:.80}") from None
        return sequence('"', regex.map_chars(inner, _escaped), '"')

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

    def listed(self, value: Any, where: str, *, empty: bool = False) -> list[Any]:
        if not isinstance(value, list) or not (value or empty):
            raise GrammarError(
                f"schema, {where}: expected a list{'' if empty else ' of at least one'}, got {value!r:.80}"
            )
        return value


def _listed(opening: str, item: Expression, low: int, high: int | None, closing: str) -> Expression:
    """Items with commas between brackets."""
    if high is not None and high < low:
        return NOTHING
    if high == 0 or (item == NOTHING and low == 0):
        return sequence(opening, SPACE, closing)
    rest = Repeat(sequence(COMMA, item, SPACE), max(0, low - 1), None if high is None else high - 1)
    items: Expression = sequence(item, SPACE, rest)
    return sequence(opening, SPACE, items if low else optional(items), closing)


def _other_names(names: list[str]) -> Expression:
    """Texts without escapes that are none of the names: they leave the tree of the names somewhere."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for c in name:
            node = node.setdefault(c, {})
        node[""] = {}
    anything = Repeat(PLAIN_CHAR, 0, None)

    def below(node: dict[str, Any], depth: int) -> Expression:
        if depth > 500:
            raise GrammarError(
                "schema: a property's name of more than 500 characters beside additionalProperties"
            )
        known = [c for c in node if c]
        taken = {point for c in known for point in [(ord(c), ord(c))]}
        others = _without(PLAIN_CHAR, taken)
        parts: list[Expression] = [sequence(others, anything)]
        if "" not in node:
            parts.append(sequence())
        for c in known:
            if _holds(PLAIN_CHAR, c):
                parts.append(sequence(c, below(node[c], depth + 1)))
        return choice(*parts)

    return below(tree, 0)


def _without(one: Chars, taken: set[tuple[int, int]]) -> Chars:
    outside = list(one.inverted().ranges) + sorted(taken)
    return Chars(normalized(outside)).inverted()


def _holds(one: Chars, c: str) -> bool:
    return any(low <= ord(c) <= high for low, high in one.ranges)


def _escaped(found: Chars) -> Expression:
    """A character of a set, as it is written in a JSON string."""
    plain = _without(PLAIN_CHAR, set(found.inverted().ranges))
    special = [c for c in map(chr, [*range(0x20), 0x22, 0x5C, 0x7F]) if _holds(found, c)]
    escapes = [json.dumps(c)[1:-1] if c != "\x7f" else "\\u007f" for c in special]
    return choice(plain, *escapes)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"schema, {where}: {text!r:.80} holds half a character") from None
    return text


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _is_of(value: Any, kind: str) -> bool:
    match kind:
        case "integer":
            return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
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
    """The nearest integer inside a bound."""
    if abs(bound.adjusted()) > 2 * numbers.MAX_BOUND_DIGITS:
        raise GrammarError(f"a bound of an integer: expected at most {numbers.MAX_BOUND_DIGITS} digits")
    whole = int(bound)  # towards 0
    if up:
        whole += bound > whole or (open_end and bound == whole)
    else:
        whole -= bound < whole or (open_end and bound == whole)
    return whole
