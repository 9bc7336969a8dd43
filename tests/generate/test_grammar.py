"""Grammars: what they accept, against re, json and jsonschema; what they refuse, and where."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.errors import GrammarError, SamplingError
from llmlite.generate import options
from llmlite.grammar import Constraint, Grammar
from llmlite.sampling import Sampler
from llmlite.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tales: Path) -> Tokenizer:
    return ll.load(tales, executor="eager").tokenizer


def written(grammar: Grammar, tokenizer: Tokenizer, seed: int, n_tokens: int = 150) -> str | None:
    """A text from random logits, ends and brackets favoured; None if it wasn't complete after n tokens."""
    random = np.random.default_rng(seed)
    constraint: Constraint = grammar.constrain(tokenizer)
    sampler = Sampler(seed=seed, temperature=1, top_k=0, top_p=1)
    closing = [t for t in range(tokenizer.n_vocab) if tokenizer.piece(t) in (b'"', b"}", b"]")]
    ids: list[int] = []
    for n in range(n_tokens):
        logits = random.standard_normal(tokenizer.n_vocab).astype(np.float32)
        logits[[*closing, *tokenizer.eog_ids]] += 2 + 12 * n / n_tokens
        token = sampler(logits, ids, mask=constraint.mask())
        if token in tokenizer.eog_ids:
            assert constraint.finished
            return tokenizer.decode(ids)
        constraint.accept(token)
        ids.append(token)
    return tokenizer.decode(ids) if constraint.finished else None


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


def test_other_names_are_never_those_of_properties() -> None:
    grammar = Grammar.from_json_schema(
        {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}}
    )
    for name in ("", "a", "b", "abc", "x"):
        assert grammar.accepts(json.dumps({name: 1}))
    assert not grammar.accepts('{"ab":1}') and grammar.accepts('{"ab":null,"c":2}')


def test_masks_equal_trying_every_token(tokenizer: Tokenizer) -> None:
    """The plain twin: each token's bytes are tried one by one."""
    grammar = Grammar.from_json_schema(
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
    )
    constraint = grammar.constrain(tokenizer)
    random = np.random.default_rng(2)
    for _ in range(12):
        mask = constraint.mask()
        for token in range(tokenizer.n_vocab):
            trial = constraint.copy()
            try:
                trial.accept(token)
            except GrammarError:
                assert not mask[token], token
            else:
                assert mask[token], token
        if set(np.flatnonzero(mask).tolist()) <= set(tokenizer.eog_ids):
            break
        constraint.accept(int(random.choice([t for t in np.flatnonzero(mask) if t not in tokenizer.eog_ids])))


def random_text(grammar: Grammar, tokenizer: Tokenizer, random: np.random.Generator, most: int) -> Constraint:
    """The constraint of a text of at most so many tokens, each drawn among those that are allowed."""
    constraint = grammar.constrain(tokenizer)
    for _ in range(random.integers(most + 1)):
        fitting = np.setdiff1d(np.flatnonzero(constraint.mask()), list(tokenizer.eog_ids))
        if not len(fitting):
            break
        constraint.accept(int(random.choice(fitting)))
    return constraint


COUNTED = [
    r"([A-Z][a-z]{1,9} ){40,60}",
    r"((ab|c){2,7}d){3,5}",
    r"(é{1,3}|.{2,4}){1,30}!",
    r"((a{0,3}b){2}){1,70}",
    r"(\d{3}){2,}x{0,200}",
]


@pytest.mark.parametrize("seed", range(12))
def test_masks_are_the_same_however_they_are_found(tokenizer: Tokenizer, seed: int) -> None:
    """Level by level, node by node, token by token, and each token's bytes followed with its own counters."""
    random = np.random.default_rng(seed)
    if seed % 2:
        grammar = Grammar.from_regex(COUNTED[seed // 2 % len(COUNTED)])
    else:
        grammar = Grammar.from_json_schema(random_schema(random))
    every_id = np.arange(tokenizer.n_vocab)
    for _ in range(4):
        constraint = random_text(grammar, tokenizer, random, 40)
        matcher, readings = constraint._matcher, constraint._readings
        state = matcher._state(readings)
        ends = sorted(tokenizer.eog_ids)
        want = matcher._by_levels(state)
        by_nodes = matcher._by_nodes(state, tokenizer.n_vocab * 99)
        assert by_nodes is not None
        np.testing.assert_array_equal(by_nodes, want)
        assert matcher.fits_any(readings) == want.any()
        assert constraint.complete == (constraint.finished and not want.any())
        want[ends] = constraint.finished
        matcher._masks.clear()
        np.testing.assert_array_equal(constraint.allowed(every_id), want)
        assert not matcher._masks, "asked, not looked up"
        np.testing.assert_array_equal(constraint.mask(), want)
        np.testing.assert_array_equal(constraint.allowed(every_id), want)
        for token in random.choice(tokenizer.n_vocab, 60).tolist() + np.flatnonzero(want)[:60].tolist():
            trial = constraint.copy()
            if tokenizer.piece(token) and token not in ends:
                assert want[token] == fits(trial, token), (token, tokenizer.piece(token))


def fits(constraint: Constraint, token: int) -> bool:
    try:
        constraint.accept(token)
    except GrammarError:
        return False
    return True


CHAINS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "repeat_penalty": 1.3, "logit_bias": {3: 2.0, 9: -np.inf}},
    {},
    {"top_k": 5, "min_p": 0.01, "dry_multiplier": 0.8, "frequency_penalty": 0.2},
    {"top_k": 100, "typical_p": 0.9, "xtc_probability": 0.5},
    {"top_k": 200},
    {"top_k": 0},
    {"top_n_sigma": 1.5},
    {"mirostat": 2},
    {"processors": [lambda ids, logits: logits - 0.1 * np.arange(len(logits))]},
]


@pytest.mark.parametrize("options", CHAINS, ids=lambda options: ",".join(options) or "default")
def test_asking_about_the_likeliest_tokens_draws_what_the_mask_draws(
    tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    random = np.random.default_rng(5)
    n_masks = 0
    for seed in range(12):
        grammar = (
            Grammar.from_regex(COUNTED[seed % 5])
            if seed % 2
            else Grammar.from_json_schema(random_schema(random))
        )
        masked, asked = (Sampler(seed=seed, **options) for _ in range(2))
        constraint, ids = grammar.constrain(tokenizer), [5, 6, 5, 6]
        for _ in range(25):
            logits = (
                (3 * random.standard_normal(tokenizer.n_vocab)).astype(np.float32).round(1)
            )  # with equals
            logits[
                random.integers(tokenizer.n_vocab, size=random.choice([0, 90, tokenizer.n_vocab]))
            ] = -np.inf
            if logits.max() == -np.inf:
                continue
            constraint._matcher._masks.clear()
            try:
                got: int | str = asked(logits, ids, constraint=constraint)
            except SamplingError as error:
                got = str(error)
            n_masks += len(constraint._matcher._masks)
            try:
                want: int | str = masked(logits, ids, mask=constraint.mask())
            except SamplingError as error:
                want = str(error)
            assert got == want
            assert (asked._state, str(asked._bits.state)) == (masked._state, str(masked._bits.state))
            if isinstance(got, str):
                continue
            if got in tokenizer.eog_ids:
                break
            constraint.accept(got)
            ids.append(got)
    assert n_masks > 0


def test_no_mask_is_made_if_the_likeliest_tokens_settle_the_choice(tokenizer: Tokenizer) -> None:
    constraint = Grammar.from_json_schema({"type": "string"}).constrain(tokenizer)
    constraint.accept_bytes(b'"a')
    constraint.mask = None  # type: ignore[method-assign,assignment]
    logits = np.random.default_rng(0).standard_normal(tokenizer.n_vocab).astype(np.float32)
    assert Sampler(seed=1)(logits, constraint=constraint) >= 0
    with pytest.raises(ValueError, match="give one"):
        Sampler()(logits, mask=np.ones(len(logits), bool), constraint=constraint)


def test_counters_that_make_no_difference_share_a_mask(tokenizer: Tokenizer) -> None:
    grammar = Grammar.from_regex(r"([A-Z][a-z]{1,9} ){400,600}")
    constraint = grammar.constrain(tokenizer)
    masks = []
    for _ in range(3):
        constraint.accept_bytes(b"Ab Cd ")
        masks.append(constraint.mask())
    assert masks[0] is masks[1] is masks[2]


def test_ends_are_allowed_exactly_if_the_text_is_complete(tokenizer: Tokenizer) -> None:
    constraint = Grammar('root ::= "a" "b"?').constrain(tokenizer)
    ends = list(tokenizer.eog_ids)
    assert not constraint.finished and not constraint.mask()[ends].any()
    with pytest.raises(GrammarError, match="can't end here.*'a'"):
        constraint.accept(ends[0])
    constraint.accept_bytes(b"a")
    assert constraint.finished and constraint.mask()[ends].all()
    with pytest.raises(GrammarError, match="after 'a'.*doesn't fit"):
        constraint.accept_bytes(b"c")
    constraint.accept_bytes(b"b")
    assert np.flatnonzero(constraint.mask()).tolist() == sorted(ends)


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
