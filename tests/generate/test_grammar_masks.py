"""Masks of a grammar: every way to find them gives the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmlite.errors import GrammarError, SamplingError
from llmlite.grammar import Constraint, Grammar
from llmlite.sampling import Sampler
from llmlite.tokenizers import Tokenizer
from tests.support.schemas import random_schema


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
