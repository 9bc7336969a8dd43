"""Each step of the chain against llama.cpp's own sampler on the same logits, through its C interface."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from llmlite.sampling import (
    DRY_BREAKERS,
    XTC,
    Candidates,
    Context,
    Dry,
    DynamicTemperature,
    LogitBias,
    MinP,
    Mirostat,
    Option,
    Penalties,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    sequence_breakers,
)
from llmlite.sampling.candidates import ranked

pytestmark = pytest.mark.conformance
llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")

N_VOCAB = 600
RANDOM = np.random.default_rng(8)


def applied(sampler: Any, logits: np.ndarray, ids: tuple[int, ...] = ()) -> tuple[dict[int, float], int]:
    """What llama.cpp's sampler leaves (token -> logit, without those of -inf), and what it selected."""
    data = (llama_cpp.llama_token_data * len(logits))()
    for token, logit in enumerate(logits.tolist()):
        data[token].id, data[token].logit = token, logit
    array = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    for token in ids:
        llama_cpp.llama_sampler_accept(sampler, token)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    kept = [array.data[n] for n in range(array.size)]
    selected = kept[array.selected].id if array.selected >= 0 else -1
    return {one.id: one.logit for one in kept if one.logit > -np.inf}, selected


def bias(pairs: dict[int, float]) -> Any:
    biases = (llama_cpp.llama_logit_bias * len(pairs))()
    for place, (token, value) in enumerate(pairs.items()):
        biases[place].token, biases[place].bias = token, value
    return llama_cpp.llama_sampler_init_logit_bias(N_VOCAB, len(pairs), biases)


HISTORY = (5, 9, 5, 5, 100, 7, 9, 5)
PAIRS: list[tuple[Option, Any]] = [
    (LogitBias(biases={3: 4.5, 77: -2.0}), lambda: bias({3: 4.5, 77: -2.0})),
    (
        Penalties(repeat=1.3, frequency=0.4, presence=0.2, last_n=6),
        lambda: llama_cpp.llama_sampler_init_penalties(N_VOCAB, 6, 1.3, 0.4, 0.2),
    ),
    (TopNSigma(n=1.5), lambda: llama_cpp.llama_sampler_init_top_n_sigma(1.5)),
    (TopK(k=17), lambda: llama_cpp.llama_sampler_init_top_k(17)),
    (Typical(p=0.6), lambda: llama_cpp.llama_sampler_init_typical(0.6, 1)),
    (TopP(p=0.8), lambda: llama_cpp.llama_sampler_init_top_p(0.8, 1)),
    (MinP(p=0.07), lambda: llama_cpp.llama_sampler_init_min_p(0.07, 1)),
    (XTC(probability=1, threshold=0.04), lambda: llama_cpp.llama_sampler_init_xtc(1.0, 0.04, 1, 3)),
    (Temperature(t=0.6), lambda: llama_cpp.llama_sampler_init_temp(0.6)),
    (
        DynamicTemperature(t=1.0, range=0.6, exponent=1.2),
        lambda: llama_cpp.llama_sampler_init_temp_ext(1.0, 0.6, 1.2),
    ),
]


@pytest.mark.parametrize(("option", "theirs"), PAIRS, ids=[option.label for option, _ in PAIRS])
def test_a_step_leaves_what_llama_cpp_leaves(option: Option, theirs: Any) -> None:
    sampler = theirs()
    try:
        for n in range(15):
            logits = (RANDOM.standard_normal(N_VOCAB) * 2.5).astype(np.float32)
            expected, _ = applied(sampler, logits, HISTORY)
            found = option(
                ranked(logits), Context(ids=HISTORY * (n + 1), n_vocab=N_VOCAB, uniform=lambda: 0.5)
            )
            assert set(found.ids.tolist()) == set(expected)
            ours = found.logits - found.logits[0]  # llama.cpp's temperature doesn't shift them
            logits_there = np.array([expected[token] for token in found.ids.tolist()])
            np.testing.assert_allclose(ours, logits_there - logits_there[0], atol=2e-5, rtol=1e-5)
    finally:
        llama_cpp.llama_sampler_free(sampler)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_keeps_as_many_as_llama_cpp_as_its_limit_moves(version: int) -> None:
    if version == 1:
        sampler = llama_cpp.llama_sampler_init_mirostat(N_VOCAB, 3, 4.0, 0.2, 100)
    else:
        sampler = llama_cpp.llama_sampler_init_mirostat_v2(3, 4.0, 0.2)
    option, context = Mirostat(version=version, tau=4.0, eta=0.2), Context(n_vocab=N_VOCAB)
    for _ in range(40):
        logits = (RANDOM.standard_normal(N_VOCAB) * 2.5).astype(np.float32)
        expected, selected = applied(sampler, logits)
        found: Candidates = option(ranked(logits), context)
        assert abs(len(found.ids) - len(expected)) <= (1 if version == 1 else 0)  # version 1 rounds a float32
        assert selected in expected
        place = found.ids.tolist().index(selected) if selected in found.ids else -1
        option.observe(float(found.probabilities[place]), context)
    llama_cpp.llama_sampler_free(sampler)


# ---- DRY: its breakers are texts, which need a vocabulary -------------------------------------------------


def repetitive(tokenizer: Any, n: int) -> tuple[int, ...]:
    """Tokens in which passages come back, with and without a breaker between them."""
    texts = ('the fox said: "no" and', "the fox said", "\n", " a * b", ":", " once upon a time there was")
    ids = [
        i for k in RANDOM.integers(0, len(texts), n) for i in tokenizer.encode(texts[k], add_special=False)
    ]
    return tuple(ids[: len(ids) - int(RANDOM.integers(0, 4))])


ALL = 4096  # tokens; to the C function -1 is off, its callers put the context's size there
BREAKERS = [(), DRY_BREAKERS, ("said:", "x time", " a", "ab\ncd"), ("\n",)]


@pytest.mark.parametrize("breakers", BREAKERS, ids=["none", "default", "several letters", "one"])
@pytest.mark.parametrize(
    ("multiplier", "base", "allowed", "last_n"),
    [(0.8, 1.75, 2, -1), (1.5, 1.2, 1, 40), (0.5, 1.0, 0, -1), (0.8, 3.0, 4, 25), (0.8, 1.75, 2, 0)],
)
def test_dry_takes_from_each_token_what_llama_cpp_takes(
    vocabulary: Any, tokenizer: Any, breakers: tuple[str, ...], multiplier: float, base: float, allowed: int,
    last_n: int,
) -> None:  # fmt: skip
    texts = (ctypes.c_char_p * max(1, len(breakers)))(*[text.encode() for text in breakers])
    option = Dry(
        multiplier=multiplier, base=base, allowed_length=allowed, last_n=last_n,
        breakers=sequence_breakers(tokenizer, breakers),
    )  # fmt: skip
    n_vocab, n_penalized = tokenizer.n_vocab, 0
    for n in (1, 2, 3, 5, 9, 15, 15, 15):
        ids = repetitive(tokenizer, n)
        sampler = llama_cpp.llama_sampler_init_dry(
            vocabulary, multiplier, base, allowed, ALL if last_n == -1 else last_n, texts, len(breakers)
        )
        try:
            logits = (RANDOM.standard_normal(n_vocab) * 2.5).astype(np.float32)
            expected, _ = applied(sampler, logits, ids)
        finally:
            llama_cpp.llama_sampler_free(sampler)
        found = option.adjust(logits.astype(np.float64), None, Context(ids=ids, n_vocab=n_vocab))
        theirs = np.array([expected[token] for token in range(n_vocab)])
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=2e-5)
        n_penalized += int(np.count_nonzero(theirs != logits))
    if last_n in (-1, 0) and not breakers:
        assert (n_penalized > 0) == (last_n != 0), "the texts must repeat, or this test shows nothing"
