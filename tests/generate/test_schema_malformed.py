"""Schemas with values of the wrong kind anywhere are refused by a GrammarError, or read."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from llmlite.errors import GrammarError
from llmlite.grammar import Grammar
from llmlite.grammar.schema_document import OF_TYPE, REFUSED
from tests.support.schemas import random_schema

KEYWORDS = [*(keyword for keywords in OF_TYPE.values() for keyword in keywords), "type", "enum", "const"]
KEYWORDS += ["anyOf", "oneOf", "allOf", "$ref", "$defs", "title", REFUSED[0]]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2.5, float("inf"), float("nan"), 10**40, "", "string", "#",
    "#/properties/k0", "#/x", "\ud800", [], {}, [1], ["a"], [{}], [[]], {"a": 1}, {"type": "string"},
    ["string", "null"], [None],
    {"\ud800": {}}, [{"minimum": "a"}, {"minimum": 3}], [{"enum": [1]}, {"enum": 3}],
    [{"required": ["x"]}, {"required": 4}], [{"properties": {"q": {}}}, {"properties": 5}],
    [{"type": 5}, {"type": "string"}],
]  # fmt: skip


@pytest.mark.parametrize("keyword", ["anyOf", "allOf"])
def test_few_references_that_ask_for_a_million_branches_are_refused(keyword: str) -> None:
    both: dict[str, Any] = {"a20": {"minimum": 1}}
    for i in range(20):
        both[f"a{i}"] = {"type": "integer", keyword: [{"$ref": f"#/$defs/a{i + 1}"}] * 2}
    with pytest.raises(GrammarError, match="more than 10000 schemas"):
        Grammar.from_json_schema({"$defs": both, "$ref": "#/$defs/a0"})


def broken(node: Any, random: np.random.Generator) -> Any:
    """A schema with some keywords added and some values replaced."""
    if isinstance(node, dict):
        node = {key: broken(value, random) if random.random() < 0.5 else value for key, value in node.items()}
        for _ in range(random.integers(0, 3)):
            node[KEYWORDS[random.integers(len(KEYWORDS))]] = copy.deepcopy(
                VALUES[random.integers(len(VALUES))]
            )
        return node
    if isinstance(node, list):
        return [broken(value, random) for value in node]
    return copy.deepcopy(VALUES[random.integers(len(VALUES))]) if random.random() < 0.1 else node


def check(seeds: range) -> None:
    n_refused = 0
    for seed in seeds:
        random = np.random.default_rng(seed)
        schema = broken(random_schema(random), random)
        try:
            Grammar.from_json_schema(schema)
        except GrammarError as error:
            assert str(error)
            n_refused += 1
    assert n_refused > len(seeds) / 4


def test_a_malformed_schema_is_refused_and_nothing_else_happens() -> None:
    check(range(400))


@pytest.mark.slow
def test_5000_malformed_schemas_are_refused_and_nothing_else_happens() -> None:
    check(range(1000, 6000))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": 5}, "#/properties: expected an object, got 5"),
        ({"required": [["a"]]}, "#/required: expected a list of names"),
        ({"allOf": [{"minimum": 1}, {"minimum": "3"}]}, "#/minimum: expected a finite number, got '3'"),
        ({"allOf": [{"minLength": 1}, {"minLength": {}}]}, "#/minLength: expected a number"),
        ({"allOf": [{"enum": [1]}, {"enum": 3}]}, "#/enum: expected a list"),
        ({"type": [{}]}, "#/type: expected one of"),
    ],
)
def test_the_place_of_a_wrong_value_is_named(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        Grammar.from_json_schema(schema)


def test_infinity_is_no_integer() -> None:
    schema = json.loads('{"type": "integer", "enum": [Infinity, 7, 2.5]}')
    assert Grammar.from_json_schema(schema).accepts("7")
