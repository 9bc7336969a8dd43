"""The bundled model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmlite as ll
from llmlite.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tales: Path) -> Tokenizer:
    return ll.load(tales, executor="eager").tokenizer
