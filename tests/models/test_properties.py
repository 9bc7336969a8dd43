"""What goes there and back comes back: texts, files, split models, quantized weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmlite import gguf, tokenizers
from llmlite.gguf import Typed
from llmlite.quants import TYPES
from llmlite.quants.tensor import QuantTensor
from tests.support.tiny_models import SPECIALS, tiny_model

TOKENIZER = tokenizers.from_metadata(tiny_model().metadata)
QUANTIZED = [kind.name for kind in TYPES.values() if kind.encode and kind.block_size > 1]
SPELLED = [*SPECIALS, " ", "the", "<|im_", "end|>", "é", "🦊", "\n"]
spelled = st.lists(st.sampled_from(SPELLED) | st.text(max_size=6))


# Texts


@settings(max_examples=200, deadline=None)
@given(spelled.map("".join), st.booleans())
def test_a_text_survives_encoding_and_decoding(text: str, parse_special: bool) -> None:
    ids = TOKENIZER.encode(text, add_special=False, parse_special=parse_special)
    assert TOKENIZER.decode(ids) == text
    pieces = TOKENIZER.stream()
    assert "".join(map(pieces.push, ids)) + pieces.flush() == text


@settings(max_examples=200, deadline=None)
@given(spelled, st.data())
def test_no_control_token_reaches_into_a_plain_part(parts: list[str], data: st.DataObject) -> None:
    plain, at = [], 0
    for part in parts:
        if part and data.draw(st.booleans()):
            plain.append((at, at + len(part)))
        at += len(part)
    text = "".join(parts)
    ids = TOKENIZER.encode(text, add_special=False, plain=plain)
    assert TOKENIZER.decode(ids) == text
    at = 0
    for token in ids:
        n_bytes = len(TOKENIZER.piece(token))
        if TOKENIZER.token(token) in SPECIALS:  # ASCII: its characters are its bytes
            begin = len(text.encode()[:at].decode())
            assert not any(first < begin + n_bytes and begin < end for first, end in plain)
        at += n_bytes
    assert TOKENIZER.encode(text, add_special=False, plain=[(0, len(text))] if text else ()) == (
        TOKENIZER.encode(text, add_special=False, parse_special=False)
    )
    assert TOKENIZER.encode(text, plain=()) == TOKENIZER.encode(text)


# Files

scalars = st.one_of(
    st.booleans().map(lambda v: Typed(v, "bool")),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: Typed(v, "i64")),
    st.integers(0, 255).map(lambda v: Typed(v, "u8")),
    st.floats(width=64, allow_nan=False).map(lambda v: Typed(v, "f64")),
    st.text().map(lambda v: Typed(v, "string")),
    st.lists(st.text()).map(lambda v: Typed(v, "[string]")),
    st.lists(st.integers(-(2**31), 2**31 - 1)).map(lambda v: Typed(np.array(v, np.int32), "[i32]")),
)
keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda key: not key.startswith(("general.alignment", "split."))
)
names = st.text("abcdefgh.", min_size=1, max_size=10)
floats32 = arrays(np.float32, st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(keys, scalars, max_size=5),
    st.dictionaries(names, floats32, max_size=5),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["little", "big"]),
    st.sampled_from([8, 32, 256]),
)
def test_what_is_written_is_read_back(
    metadata: dict[str, Typed], tensors: dict[str, Any], version: int, byte_order: str, alignment: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.gguf"
        gguf.write(path, metadata, tensors, version=version, byte_order=byte_order, alignment=alignment)
        with gguf.read(path) as file:
            assert [key for key in file.metadata if key != "general.alignment"] == list(metadata)
            for key, value in metadata.items():
                assert file.metadata_type(key) == value.type
                assert np.array_equal(file.metadata[key], value.value)
            assert list(file.tensors) == list(tensors)
            for name, array in tensors.items():
                assert file.tensors[name].dequantize().tobytes() == array.tobytes()
            again = Path(folder) / "again.gguf"
            gguf.write(again, file.metadata, file.tensors, version=version, byte_order=byte_order)
            assert again.read_bytes() == path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, floats32, min_size=1, max_size=8), st.integers(1, 9), st.integers(1, 400))
def test_a_split_model_merges_into_the_file_it_was(
    tensors: dict[str, Any], max_tensors: int, max_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gguf.write(folder / "whole.gguf", {"general.architecture": "llama", "a": 1}, tensors)
        first, *rest = gguf.split(
            folder / "whole.gguf", folder / "part", max_tensors=max_tensors, max_bytes=max_bytes
        )
        if rest:
            gguf.merge(first, folder / "merged.gguf")
            assert (folder / "merged.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()
        with gguf.read(first) as file:
            assert list(file.tensors) == list(tensors)


# Weights

rows = arrays(np.float32, (3, 256), elements=st.floats(-1000, 1000, width=32))


@pytest.mark.parametrize("type_name", QUANTIZED)
@settings(max_examples=8, deadline=None)
@given(rows, st.none() | arrays(np.float32, (256,), elements=st.floats(0, 1e6, width=32)))
def test_quantizing_twice_gives_the_same_bytes_and_no_weight_is_lost(
    type_name: str, weights: np.ndarray, importance: np.ndarray | None
) -> None:
    one = QuantTensor.quantize(weights, type_name, "w", importance)
    two = QuantTensor.quantize(weights, type_name, "w", importance, n_threads=2)
    np.testing.assert_array_equal(one.blocks, two.blocks)
    made = one.dequantize()
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= 4 * np.abs(weights).max()
