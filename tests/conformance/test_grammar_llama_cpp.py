"""llama.cpp's own grammar files: they parse, and allow the tokens that llama.cpp's grammar sampler allows."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from llmlite.grammar import Grammar
from llmlite.tokenizers import Tokenizer

pytestmark = pytest.mark.conformance
llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")
files = pytest.importorskip("llama_cpp.llama_grammar", reason="llama-cpp-python carries the grammar files")

FILES = {name: getattr(files, name) for name in dir(files) if name.endswith("_GBNF")}
OWN = {
    "counted": 'root ::= ("- " [A-Z][a-z]{1,9} (" " [^\\n ]{2,6}){0,3} "\\n"){2,}',
    "nested": 'root ::= "a" root "b" | "(" root? ")" | [0-9]+ | "é" [à-ü]{1,2}',
}
GRAMMARS = {**FILES, **OWN}
# Tokens of one byte that llama.cpp treats otherwise. It takes a zero for no text, and bytes that UTF-8 never
# has for the beginning of a character. It refuses the first byte of a character if a set leaves out some of
# the characters that begin so.
NEVER = [bytes([byte]) for byte in range(0xF5, 0x100)]
OTHERS = {b"\0", b"\xc2", b"\xe2", *NEVER}


def their_mask(sampler: Any, n_vocab: int) -> np.ndarray:
    data = (llama_cpp.llama_token_data * n_vocab)()
    for token in range(n_vocab):
        data[token].id = token
    array = llama_cpp.llama_token_data_array(data=data, size=n_vocab, selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return np.array([data[token].logit > -np.inf for token in range(n_vocab)])


def test_the_files_are_there() -> None:
    assert {"JSON_GBNF", "C_GBNF", "CHESS_GBNF", "JAPANESE_GBNF"} <= set(FILES)


@pytest.mark.parametrize("name", GRAMMARS)
def test_the_same_tokens_are_allowed_all_along_a_text(
    name: str, vocabulary: Any, tokenizer: Tokenizer
) -> None:
    text = GRAMMARS[name]
    ends = sorted(tokenizer.eog_ids)
    pieces = [tokenizer.piece(token) for token in range(tokenizer.n_vocab)]
    hidden = tokenizer.vocabulary.is_hidden
    shown = np.array([bool(p) and p not in OTHERS and not hidden(t) for t, p in enumerate(pieces)])
    shown[ends] = True
    never = [token for token, piece in enumerate(pieces) if piece in NEVER]
    random = np.random.default_rng(3)
    grammar, n_steps = Grammar(text), 0
    for _ in range(4):
        sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        assert sampler
        constraint = grammar.constrain(tokenizer)
        for _ in range(25):
            mask = constraint.mask()
            np.testing.assert_array_equal(mask[shown], their_mask(sampler, tokenizer.n_vocab)[shown])
            assert not mask[never].any()
            np.testing.assert_array_equal(constraint.allowed(np.flatnonzero(shown)), mask[shown])
            fitting = np.setdiff1d(np.flatnonzero(mask & shown), ends)
            if not len(fitting):
                break
            token = int(random.choice(fitting))
            constraint.accept(token)
            llama_cpp.llama_sampler_accept(sampler, token)
            n_steps += 1
        llama_cpp.llama_sampler_free(sampler)
    assert n_steps > 8
