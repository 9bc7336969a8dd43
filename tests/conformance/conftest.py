"""The bundled model's vocabulary, as llama.cpp and as llmlite read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import llmlite as ll
from llmlite.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Any]:
    """llama.cpp's, without the model's weights."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")
    llama = llama_cpp.Llama(str(ll.model_path("tales")), vocab_only=True, verbose=False)
    yield llama_cpp.llama_model_get_vocab(llama.model)
    llama.close()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ll.load("tales", executor="eager").tokenizer
