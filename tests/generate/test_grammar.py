"""Grammars: what they accept, against re, json and jsonschema; what they refuse, and where."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import numpy as np
import pytest

from llmlite.errors import GrammarError
from llmlite.generate import options
from llmlite.grammar import Constraint, Grammar
from llmlite.sampling import Sampler
from llmlite.tokenizers import Tokenizer
from tests.support.schemas import VALUES, combined_schema, random_schema


def written(grammar: Grammar, tokenizer: Tokenizer, seed: int, n_tokens: int = 150) -> str | None:
    """A text from random logits, ends and brackets favoured; None if it wasn't complete after n tokens."""
    draws = np.random.default_rng(seed)
    constraint: Constraint = grammar.constrain(tokenizer)
    sampler = Sampler(seed=seed, temperature=1, top_k=0, top_p=1)
    closing = [t for t in range(tokenizer.n_vocab) if tokenizer.piece(t) in (b'"', b"}", b"]")]
    ids: list[int] = []
    for n in range(n_tokens):
        logits = draws.standard_normal(tokenizer.n_vocab).astype(np.float32)
        logits[[*closing, *tokenizer.eog_ids]] += 2 + 12 * n / n_tokens
        token = sampler(logits, ids, mask=constraint.mask())
        if token in tokenizer.eog_ids:
            assert constraint.finished
            return tokenizer.decode(ids)
        constraint.accept(token)
        ids.append(token)
    return tokenizer.decode(ids) if constraint.finished else None


def check_schemas(tokenizer: Tokenizer, seeds: range) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is the oracle")
    n_complete = 0
    for seed in seeds:
        schema = random_schema(np.random.default_rng(seed))
        text = written(Grammar.from_json_schema(schema), tokenizer, seed)
        if text is None:
            continue
        n_complete += 1
        jsonschema.validate(json.loads(text), schema)
    assert n_complete > 0.8 * len(seeds)


def test_whatever_is_written_under_a_schema_is_valid(tokenizer: Tokenizer) -> None:
    check_schemas(tokenizer, range(50))


def test_whatever_is_accepted_under_combined_demands_is_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is the oracle")
    n_accepted = 0
    for seed in range(280, 380):
        schema = combined_schema(random.Random(seed))
        try:
            grammar = Grammar.from_json_schema(schema)
        except GrammarError:
            continue  # refused by name, or no text fits it
        validator = jsonschema.Draft202012Validator(schema)
        accepted = [value for value in VALUES if grammar.accepts(json.dumps(value))]
        assert [value for value in accepted if not validator.is_valid(value)] == [], schema
        n_accepted += len(accepted)
    assert n_accepted > 150


@pytest.mark.slow
def test_whatever_is_written_under_1000_schemas_is_valid(tokenizer: Tokenizer) -> None:
    check_schemas(tokenizer, range(1000, 2000))


PATTERNS = [
    r"a*b|ba{1,2}",
    r"(ab|a)(b?a)*",
    r"[^a]+",
    r"(?:a|b){2,3}?",
    r"\w\Wa",
    r"(?P<x>a)?\x62",
    r"",
    r"[a\-]*b?",
    r"((a*)*)*b",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_accepts_what_re_matches(pattern: str) -> None:
    grammar = Grammar.from_regex(pattern)
    for n in range(6):
        for text in map("".join, itertools.product("ab-", repeat=n)):
            assert grammar.accepts(text) == bool(re.fullmatch(pattern, text)), text


@pytest.mark.parametrize("pattern", ["b", "^b", "b$", "^a|b$", "a.b"])
def test_a_schemas_pattern_is_searched_for(pattern: str) -> None:
    grammar = Grammar.from_json_schema({"type": "string", "pattern": pattern})
    for n in range(5):
        for text in map("".join, itertools.product('ab"\n', repeat=n)):
            expected = re.search(
                pattern.replace("$", r"\Z"), text
            )  # re's $ also matches before a last line end
            assert grammar.accepts(json.dumps(text)) == bool(expected), text


@pytest.mark.parametrize("low", [-120, -10, -1, 0, 1, 7, 99, 100])
def test_bounds_of_integers_are_exact(low: int) -> None:
    for high in (-100, -9, -1, 0, 5, 10, 101, 250):
        schema = {"type": "integer", "minimum": low, "maximum": high}
        if low > high:
            with pytest.raises(GrammarError, match="no finite text"):
                Grammar.from_json_schema(schema)
            continue
        grammar = Grammar.from_json_schema(schema)
        assert [x for x in range(-300, 300) if grammar.accepts(str(x))] == list(range(low, high + 1))
        assert not grammar.accepts("007") and not grammar.accepts("-0")


@pytest.mark.parametrize(
    "bounds", [(-1.25, 1.5), (0.5, 0.53), (0, 1), (-3, -2.875), (2.999, 3.001), (1.5, 1.5)]
)
@pytest.mark.parametrize("is_open", [False, True])
def test_bounds_of_numbers_are_exact(bounds: tuple[float, float], is_open: bool) -> None:
    low, high = bounds
    keys = ("exclusiveMinimum", "exclusiveMaximum") if is_open else ("minimum", "maximum")
    if is_open and low == high:
        return
    grammar = Grammar.from_json_schema({"type": "number", **dict(zip(keys, bounds))})
    for n in range(-3200, 3200, 3):
        text = f"{n / 1000:.3f}"
        inside = low < float(text) < high if is_open else low <= float(text) <= high
        if text != "-0.000":
            assert grammar.accepts(text) == inside, text


def test_a_grammar_follows_its_rules() -> None:
    grammar = Grammar('root ::= "a" item{2,3} # two or three\nitem ::= [x-z] |\n  ("(" item ")")\n')
    assert [grammar.accepts(t) for t in ("axy", "a(x)((y))z", "ax", "axxxx", "a(x", "")] == [True, True] + [
        False
    ] * 4
    assert Grammar('root ::= [^"\\\\\\x00-\\x1F] "é" "\\u20AC" .').accepts("日é€\U0001f600")
    assert not Grammar("root ::= .").accepts(b"\xff")


def test_a_recursive_schema_nests() -> None:
    schema = {
        "$defs": {
            "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": []}
        },
        "$ref": "#/$defs/node",
    }
    grammar = Grammar.from_json_schema(schema)
    assert grammar.accepts('{"next":{"next": {}}}') and not grammar.accepts('{"next":{"next": 1}}')


def test_all_of_demands_everything() -> None:
    schema = {"allOf": [{"type": "number", "minimum": 3}, {"type": "integer"}, {"maximum": 5}]}
    grammar = Grammar.from_json_schema(schema)
    assert [x for x in range(10) if grammar.accepts(str(x))] == [3, 4, 5] and not grammar.accepts("3.5")


@pytest.mark.parametrize(
    ("one", "other", "values"),
    [
        (["integer", "number"], ["string"], ""),
        (["integer", "number"], ["number"], "1 1.5"),
        (["integer", "string"], ["number", "string"], '1 "a"'),
        (["number"], ["integer", "null"], "1"),
        (["integer", "null"], ["integer", "number"], "1"),
    ],
)
def test_all_of_types_are_those_that_both_allow(one: list[str], other: list[str], values: str) -> None:
    schema = {"allOf": [{"type": one}, {"type": other}]}
    if not values:
        with pytest.raises(GrammarError, match="no finite text fits it"):
            Grammar.from_json_schema(schema)
        return
    grammar = Grammar.from_json_schema(schema)
    assert [text for text in ("1", "1.5", '"a"', "null") if grammar.accepts(text)] == values.split()


@pytest.mark.parametrize(
    "impossible",
    [
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "integer", "minimum": 2, "maximum": 1},
    ],
)
def test_demands_that_no_value_meets_are_met_by_none(impossible: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="no finite text fits it"):
        Grammar.from_json_schema(impossible)
    grammar = Grammar.from_json_schema({"anyOf": [impossible, {"type": "null"}]})
    texts = ("null", '""', '"a"', "[]", "[1]", '{"a":1}', "1", "2")
    assert [text for text in texts if grammar.accepts(text)] == ["null"]


def test_items_of_one_part_hold_for_the_prefix_of_another_too_so_they_are_refused() -> None:
    prefix, items = {"prefixItems": [{"maximum": 3}]}, {"items": {"minimum": 2}}
    for schema in ({**items, "allOf": [prefix]}, {**prefix, "allOf": [items]}, {"allOf": [prefix, items]}):
        with pytest.raises(GrammarError, match="items of one part beside prefixItems of another"):
            Grammar.from_json_schema(schema)
    grammar = Grammar.from_json_schema({"allOf": [{**prefix, **items}, prefix | {"items": {"maximum": 4}}]})
    assert [text for text in ("[1]", "[1,2]", "[1,4]", "[4]", "[1,1]", "[1,5]") if grammar.accepts(text)] == [
        "[1]", "[1,2]", "[1,4]"
    ]  # fmt: skip


def test_other_names_are_never_those_of_properties() -> None:
    grammar = Grammar.from_json_schema(
        {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}}
    )
    for name in ("", "a", "b", "abc", "x"):
        assert grammar.accepts(json.dumps({name: 1}))
    assert not grammar.accepts('{"ab":1}') and grammar.accepts('{"ab":null,"c":2}')


class FewTokens:
    """A vocabulary that can't spell much."""

    n_vocab, eog_ids = 3, frozenset({2})
    vocabulary: Any

    def __init__(self) -> None:
        self.vocabulary = self

    def is_hidden(self, token_id: int) -> bool:
        return token_id == 2

    def piece(self, token_id: int) -> bytes:
        return [b"a", b"aa", b""][token_id]


def test_a_dead_end_is_an_error_with_its_place() -> None:
    constraint = Grammar('root ::= "aaz"').constrain(FewTokens())
    constraint.accept(1)
    with pytest.raises(GrammarError, match="byte 2, after 'aa': a dead end: the grammar demands 'z'"):
        constraint.mask()


def test_the_latest_grammars_of_the_options_are_kept_and_no_more() -> None:
    schemas = [{"enum": [str(i), i]} for i in range(options.KEPT + 1)]
    first = options.form("json_schema", schemas[0])
    assert options.form("json_schema", dict(schemas[0])) is first
    assert options.form("regex", "a+") is not options.form("grammar", 'root ::= "a"+')
    for schema in schemas[1:]:
        options.form("json_schema", schema)
    assert options.form("json_schema", schemas[0]) is not first and len(options._kept) == options.KEPT
    for _ in range(2):  # nothing is kept of what is malformed
        with pytest.raises(GrammarError):
            options.form("regex", "a(")


def test_what_is_kept_is_bounded_and_constraints_survive_its_loss(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar.from_json_schema({})
    one = grammar.constrain(tokenizer)
    one.accept_bytes(b'{"a": [[1, {"b": "x')
    before = one.mask().copy()
    monkeypatch.setattr("llmlite.grammar.matcher.MAX_CELLS", 0)
    np.testing.assert_array_equal(one.mask(), before)
    one.accept_bytes(b'"}]]}')
    assert one.finished


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a\na ::= b?  c\nb ::= "x"\nc ::= a "y" | "z"', "'a' begins with itself .a → c → a."),
        ("root ::= ax", "rule 'root' needs a rule 'ax'"),
        ('other ::= "a"', "the grammar needs a rule 'root'"),
        ('root ::= "a" root', "no finite text"),
        ('root ::= "a', "line 1, column 12: expected more characters"),
        ('root ::= "a"\nx ::= [z-a]', "line 2, column 8: expected a range"),
        ('root ::= ("a"', r"expected '\)'"),
        ('root ::= *', "something to repeat"),
        ('root ::= "a"{3,1}', "m <= n"),
        ('root ::= "a"{99999999999}', "at most 2147483647"),
        ('root ::= <think>', "a token"),
        ('root ::= "\\q"', "an escape"),
        ("root = 1", "'::='"),
        ("", "at least one rule"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "at most 60 nested parentheses"),
        ('root ::= "a"' + "*" * 5000, "at most 60 repetitions"),
        ("\n".join(f'r{n} ::= r{n + 1} "a" | r{n + 1} "b"' for n in range(60)) + '\nr60 ::= "x"\nroot ::= r0',
         "ambiguous"),
        ("root ::= " + '"a" ' * 400_000, "at most|too large"),
    ],
)  # fmt: skip
def test_a_hostile_grammar_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        Grammar(text)


def test_huge_repetitions_and_exponential_patterns_take_no_room(tokenizer: Tokenizer) -> None:
    for grammar in (
        Grammar('root ::= ("ab"{1,1000000}){1,1000000}'),
        Grammar.from_regex("(a|a)*(a|b)*" * 5),
        Grammar.from_regex("((a{0,1000000}){0,1000000}){0,1000000}b?"),
        Grammar.from_json_schema({"type": "string", "maxLength": 2**31 - 1}),
    ):
        constraint = grammar.constrain(tokenizer)
        for _ in range(5):
            constraint.mask()


def test_too_many_readings_are_an_error_not_a_hang() -> None:
    grammar = Grammar.from_regex("((a{1,90}){1,90}){1,90}b")
    with pytest.raises(GrammarError, match="readings at once"):
        grammar.accepts("a" * 2000)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", r"character 3: expected '\)', got the end"),
        ("(?=a)", "look-around"),
        (r"(a)\1", "reference"),
        (r"\bword", "word boundary"),
        ("[a", "']' at the end"),
        ("a{2,1}", "m <= n"),
        ("a**", "one quantifier"),
        ("x(^a)", "ends of a pattern"),
        ("(" * 3000 + ")" * 3000, "at most 60 nested groups"),
    ],
)
def test_a_pattern_that_cannot_be_obeyed_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        Grammar.from_regex(pattern)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "#/type: expected one of"),
        ({"properties": {"a": {"not": {}, "type": "string"}}}, "#/properties/a: 'not'"),
        ({"properties": {"a": {"multipleOf": 2}}}, "#/properties/a: 'multipleOf' isn't supported"),
        ({"$ref": "#/$defs/x"}, "doesn't exist"),
        ({"$ref": "http://example.com"}, "expected a place in the schema"),
        ({"$ref": "#"}, "no finite text|begins with itself"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"minLength": -1}, "#/minLength: expected 0"),
        ({"type": "string", "pattern": "(?!a)"}, "#/pattern.*look-around"),
        ({"enum": []}, "a list of at least one"),
        ({"minimum": "3"}, "finite number"),
        (nested(3000), "nested schemas"),
        ("{", "not JSON"),
        (3, "expected an object"),
        (False, "no finite text"),
    ],
)
def test_a_schema_that_cannot_be_obeyed_is_refused(schema: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        Grammar.from_json_schema(schema)
