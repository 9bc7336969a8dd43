"""Vocabularies that contradict themselves: the error says where, what was expected and what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmlite import tokenizers
from llmlite.errors import TokenizerError
from llmlite.tokenizers.bpe import BYTE_TO_CHAR

TOKENS = [*BYTE_TO_CHAR, "he", "<|end|>"]
N = len(TOKENS)


def metadata(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"model": "gpt2", "pre": "gpt-2", "tokens": TOKENS, "merges": ["h e"]}
    values.update(changes)
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "tokenizer.ggml.model: missing"),
        ({"model": "rwkv"}, "unknown tokenizer 'rwkv'; known: gpt2, llama, bert, t5, gemma4"),
        ({"pre": "klingon"}, "unknown pre-tokenizer 'klingon'.*gpt-2.*llama-bpe.*qwen2"),
        ({"pre": 7}, "tokenizer.ggml.pre: expected a string, got int"),
        ({"pre": np.zeros(2)}, "tokenizer.ggml.pre: expected a string, got ndarray"),
        ({"model": ["gpt2"]}, r"unknown tokenizer \['gpt2'\]"),
        ({"bos_token_id": np.array([1, 2])}, "bos_token_id: expected a token id, got array"),
        ({"add_bos_token": np.zeros(2, bool)}, "add_bos_token: expected a boolean, got array"),
        ({"tokens": np.arange(5)}, r"tokens\[0\]: expected a string, got int"),
        ({"tokens": None}, "tokenizer.ggml.tokens: missing"),
        ({"tokens": []}, "expected at least one token, got none"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens: expected an array, got str"),
        ({"tokens": 5}, "tokenizer.ggml.tokens: expected an array, got int"),
        ({"tokens": [*TOKENS, 5]}, rf"tokens\[{N}\]: expected a string, got int"),
        (
            {"tokens": [*TOKENS, "he"]},
            rf"tokens\[{N}\]: expected a text of its own, got 'he', which is token 256",
        ),
        ({"token_type": [1] * 5}, f"token_type: expected {N} entries, one per token, got 5"),
        ({"token_type": [1] * (N + 1)}, f"token_type: expected {N} entries, one per token, got {N + 1}"),
        ({"token_type": ["1"] * N}, r"token_type\[0\]: expected integers, got '1'"),
        ({"token_type": 1}, "token_type: expected an array, got int"),
        ({"unknown_token_id": "3"}, "unknown_token_id: expected a token id, got '3'"),
        ({"padding_token_id": 1.5}, "padding_token_id: expected a token id, got 1.5"),
        ({"add_bos_token": "yes"}, "add_bos_token: expected a boolean, got 'yes'"),
        ({"add_bos_token": True}, "add_bos_token: true, expected a bos_token_id with it, got none"),
        ({"model": "llama", "scores": [0.0] * 3}, f"scores: expected {N} entries, one per token, got 3"),
        ({"model": "llama", "scores": [float("nan")] * N}, r"scores\[0\]: expected numbers, got nan"),
        ({"model": "llama", "token_type": [6] * N}, r"tokens\[0\]: a byte token, expected <0x00> to <0xFF>"),
    ],
)
def test_a_contradiction_is_refused_when_the_tokenizer_is_made(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        tokenizers.from_metadata(metadata(**changes))


@pytest.mark.parametrize(
    ("merges", "words"),
    [
        (None, "tokenizer.ggml.merges: missing"),
        ("h e", "merges: expected an array, got str"),
        (["h e", "he"], r"merges\[1\]: expected two texts separated by one space, got 'he'"),
        (["a b c"], r"merges\[0\]"),
        ([" a"], r"merges\[0\]"),
        (["a "], r"merges\[0\]"),
        ([""], r"merges\[0\]"),
        ([" "], r"merges\[0\]"),
        ([7], r"merges\[0\]: .* got 7"),
    ],
)
def test_malformed_merges_are_refused_at_the_first_text(merges: Any, words: str) -> None:
    tokenizer = tokenizers.from_metadata(metadata(merges=merges))
    for _ in range(2):
        with pytest.raises(TokenizerError, match=words):
            tokenizer.encode("hello")


def test_a_missing_pre_tokenizer_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="pre is missing.*'default'"):
        tokenizer = tokenizers.from_metadata(metadata(pre=None))
    assert tokenizer.decode(tokenizer.encode("he said 12345")) == "he said 12345"


def test_an_unknown_token_type_counts_as_undefined() -> None:
    tokenizer = tokenizers.from_metadata(metadata(token_type=[99] * N))
    assert tokenizer.token_type(0) == tokenizers.TokenType.UNDEFINED


def test_numpy_arrays_serve_as_well_as_lists() -> None:
    types = np.ones(N, dtype=np.int32)
    tokenizer = tokenizers.from_metadata(metadata(token_type=types, bos_token_id=np.uint32(3)))
    assert tokenizer.bos_id == 3
    assert tokenizer.encode("he") == [256]
    assert tokenizer.decode(np.array([256], dtype=np.int64)) == "he"


def test_merges_into_texts_that_are_no_tokens_fall_apart_into_bytes() -> None:
    tokenizer = tokenizers.from_metadata(metadata(merges=["h e", "he y"]))
    assert [tokenizer.token(i) for i in tokenizer.encode("hey")] == ["h", "e", "y"]


def test_an_empty_token_text_gets_a_name_as_in_llama_cpp() -> None:
    tokenizer = tokenizers.from_metadata(metadata(tokens=[*TOKENS, "", ""]))
    assert tokenizer.token(N) == f"[EMPTY_{N}]"


@pytest.mark.parametrize(
    ("key", "value", "attribute"),
    [("bos", N, "bos_id"), ("eos", 2**32 - 1, "eos_id"), ("padding", -1, "pad_id"), ("unknown", N, "unk_id")],
)
def test_a_special_id_outside_the_vocabulary_is_passed_over_with_a_warning(
    key: str, value: int, attribute: str
) -> None:
    with pytest.warns(UserWarning, match=f"{key}_token_id: expected an id below .*{N} tokens, got {value}"):
        tokenizer = tokenizers.from_metadata(metadata(**{f"{key}_token_id": value}))
    assert getattr(tokenizer, attribute) is None


def test_a_special_id_outside_the_vocabulary_leaves_the_default_of_its_kind() -> None:
    spm = {"model": "llama", "tokens": ["<unk>", "<s>", "</s>"], "token_type": [2, 3, 3], "scores": [0.0] * 3}
    with pytest.warns(UserWarning, match="bos_token_id: .*got 4294967295; using 1"):
        tokenizer = tokenizers.from_metadata(metadata(**spm, bos_token_id=2**32 - 1))
    assert tokenizer.encode("") == [1]


def test_what_a_file_names_wrongly_is_not_added() -> None:
    with pytest.warns(UserWarning, match="using none"):
        tokenizer = tokenizers.from_metadata(metadata(add_bos_token=True, bos_token_id=2**32 - 1))
    assert not tokenizer.add_bos and tokenizer.encode("he") == [256]
