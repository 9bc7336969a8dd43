"""Hugging Face folders that don't fit: each is refused by name, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite.errors import GGUFError, LlmliteError, ModelError, TokenizerError, UnsupportedError
from llmlite.huggingface import convert_folder
from tests.support.huggingface_folders import (
    changed,
    drop,
    put,
    safetensors,
    their_arrays,
    write_folder,
    write_json,
)
from tests.support.tiny_models import tiny_model

# the file to change, the change, the exception, its text
REFUSED: list[tuple[str, Callable[[Any], Any], type[LlmliteError], str]] = [
    *(
        ("config.json", drop(key), ModelError, f"{key}: expected a whole number above 0, got 'nothing'")
        for key in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
        )
    ),
    ("config.json", drop("rms_norm_eps"), ModelError, "rms_norm_eps: expected a number above 0"),
    ("config.json", drop("architectures"), ModelError, "architectures: expected a list of one, got None"),
    ("config.json", put("architectures", ["Other"]), UnsupportedError, "'Other' is not supported; supported"),
    ("config.json", put("hidden_size", "64"), ModelError, "hidden_size: expected a whole number"),
    ("config.json", put("hidden_size", True), ModelError, "hidden_size: expected a whole number"),
    ("config.json", put("hidden_size", 10**30), ModelError, "hidden_size: expected a whole number"),
    (
        "config.json",
        put("hidden_size", 66),
        ModelError,
        "hidden_size: expected a multiple of num_attention_heads",
    ),
    ("config.json", put("num_key_value_heads", 3), ModelError, "head_count_kv: expected a divisor"),
    (
        "config.json",
        put("num_hidden_layers", 3),
        ModelError,
        r"model.layers.2.input_layernorm.weight: this tensor is",
    ),
    (
        "config.json",
        put("num_hidden_layers", 1),
        ModelError,
        "model.layers.1.input_layernorm.weight: not a tensor",
    ),
    (
        "config.json",
        drop("intermediate_size"),  # 4 * hidden_size then
        ModelError,
        r"mlp.gate_proj.weight: expected shape \(256, 64\)",
    ),
    (
        "config.json",
        put("intermediate_size", 96),
        ModelError,
        r"mlp.gate_proj.weight: expected shape \(96, 64\)",
    ),
    (
        "config.json",
        put("vocab_size", 300),
        ModelError,
        "embed_tokens.weight: expected vocab_size, 300, rows",
    ),
    ("config.json", put("tie_word_embeddings", 1), ModelError, "tie_word_embeddings: expected true or false"),
    ("config.json", put("hidden_act", "gelu"), UnsupportedError, "hidden_act: 'gelu' is not supported"),
    (
        "config.json",
        put("rope_scaling", {"type": "dynamic"}),
        UnsupportedError,
        "rope_type: 'dynamic' is not supported",
    ),
    ("config.json", put("rope_scaling", {"type": "yarn"}), ModelError, "factor: expected a number above 0"),
    ("config.json", put("rope_scaling", {"type": []}), UnsupportedError, r"rope_type: \[\] is not supported"),
    ("config.json", put("rope_scaling", {"type": "llama3"}), ModelError, "factor: expected a number above 0"),
    ("config.json", put("rope_scaling", 8), ModelError, "rope_scaling: expected an object, got 8"),
    ("config.json", put("partial_rotary_factor", 0.5), UnsupportedError, "partial_rotary_factor: only 1"),
    (
        "config.json",
        put("quantization_config", {"bits": 4}),
        UnsupportedError,
        "quantization_config: only models",
    ),
    ("config.json", lambda c: [c], GGUFError, "JSON at byte 0: expected an object"),
    ("tokenizer.json", put("model", "type", "WordLevel"), UnsupportedError, "type 'WordLevel'; only BPE"),
    ("tokenizer.json", put("model", []), TokenizerError, r"model: expected an object, got \[\]"),
    (
        "tokenizer.json",
        put("model", "vocab", {}),
        TokenizerError,
        "model.vocab: expected texts and their ids",
    ),
    ("tokenizer.json", put("model", "vocab", "!", 1), TokenizerError, "token 1: expected one text"),
    ("tokenizer.json", put("model", "vocab", "!", -1), TokenizerError, "expected an id below"),
    ("tokenizer.json", put("model", "vocab", "!", 267), TokenizerError, "expected an id below"),
    ("tokenizer.json", put("model", "vocab", "!", "0"), TokenizerError, "expected a text and its id"),
    ("tokenizer.json", put("added_tokens", 3), TokenizerError, "added_tokens: expected a list"),
    ("tokenizer.json", put("added_tokens", [{"id": 3}]), TokenizerError, "expected a text and its id"),
    ("tokenizer.json", put("model", "merges", None), TokenizerError, "model.merges: expected a list"),
    (
        "tokenizer.json",
        put("model", "merges", ["a b c"]),
        TokenizerError,
        r"model.merges\[0\]: expected two texts",
    ),
    (
        "tokenizer.json",
        put("model", "merges", [["a", 1]]),
        TokenizerError,
        r"model.merges\[0\]: expected two texts",
    ),
    ("tokenizer.json", put("model", "dropout", 0.1), UnsupportedError, "model.dropout"),
    (
        "tokenizer.json",
        put("normalizer", {"type": "Lowercase"}),
        UnsupportedError,
        "a normalizer 'Lowercase'",
    ),
    ("tokenizer.json", put("pre_tokenizer", None), UnsupportedError, "has no ByteLevel"),
    ("tokenizer.json", put("pre_tokenizer", "add_prefix_space", True), UnsupportedError, "doesn't know"),
    (
        "tokenizer.json",
        put("post_processor", {"type": "BertProcessing"}),
        TokenizerError,
        "post_processor.cls: expected a text and its id",
    ),
    ("tokenizer.json", put("model", "type", "Unigram"), TokenizerError, "model.vocab: expected a list of"),
    (
        "tokenizer.json",
        put("post_processor", {"type": "Other"}),
        UnsupportedError,
        "a post_processor 'Other'",
    ),
    (
        "tokenizer.json",
        put("model", "byte_fallback", True),
        UnsupportedError,
        "doesn't know: {'type': 'ByteLevel'",
    ),
    (
        "tokenizer_config.json",
        put("bos_token", "<none>"),
        TokenizerError,
        "bos_token: expected a token of the",
    ),
    (
        "tokenizer_config.json",
        put("add_bos_token", True),
        TokenizerError,
        "add_bos_token: expected a bos_token",
    ),
]


@pytest.mark.parametrize(
    ("name", "change", "kind", "text"), REFUSED, ids=[f"{name}: {text[:40]}" for name, _, _, text in REFUSED]
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    folder: Path, name: str, change: Callable, kind: type[LlmliteError], text: str
) -> None:
    if text.startswith("add_bos_token"):
        changed(folder, name, drop("bos_token"))
    changed(folder, name, change)
    with pytest.raises(kind, match=text) as caught:
        convert_folder(folder, folder.parent / "out.gguf")
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_tensors_that_are_missing_or_strange_are_named_as_the_folder_names_them(folder: Path) -> None:
    arrays = their_arrays(tiny_model())
    for name in ("model.norm.weight", "lm_head.weight", "model.layers.1.self_attn.k_proj.weight"):
        rest = {key: array for key, array in arrays.items() if key != name}
        (folder / "model.safetensors").write_bytes(safetensors(rest))
        with pytest.raises(ModelError, match=f"{name}: this tensor is missing"):
            convert_folder(folder, folder.parent / "out.gguf")
    for name in ("model.layers.0.mlp.experts.0.weight", "score.weight", "blk.0.attn_q.weight"):
        (folder / "model.safetensors").write_bytes(safetensors(arrays | {name: np.zeros(2, np.float32)}))
        with pytest.raises(ModelError, match=f"'{name}': not a tensor of this architecture"):
            convert_folder(folder, folder.parent / "out.gguf")


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("../other.safetensors", "the name of a file in the same folder"),
        ("/etc/passwd", "the name of a file in the same folder"),
        ("sub\\other.safetensors", "the name of a file in the same folder"),
        ("..", "the name of a file in the same folder"),
        (["x"], "the name of a file in the same folder"),
        ("missing.safetensors", "expected a file 'missing.safetensors' in the same folder, got none"),
        ("model-00002-of-00002.safetensors", "got none"),
    ],
)
def test_an_index_names_only_files_beside_it(tmp_path: Path, file_name: Any, text: str) -> None:
    folder = write_folder(tmp_path / "model", tiny_model(), n_shards=2)
    (tmp_path / "other.safetensors").write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    first = "model.embed_tokens.weight"
    changed(folder, "model.safetensors.index.json", put("weight_map", first, file_name))
    with pytest.raises(GGUFError) as caught:
        convert_folder(folder, tmp_path / "out.gguf")
    assert text in str(caught.value) and caught.value.field == first


def test_an_index_without_a_map_and_folders_without_weights_are_refused(folder: Path) -> None:
    out = folder.parent / "out.gguf"
    write_json(folder / "model.safetensors.index.json", {"weight_map": []})
    with pytest.raises(GGUFError, match="weight_map: expected tensor names and their files"):
        convert_folder(folder, out)
    for name, text in (
        ("model.safetensors.index.json", None),
        ("tokenizer.json", "has no tokenizer.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("config.json", "this folder has no config.json"),
    ):
        (folder / name).unlink()
        if text:
            with pytest.raises(UnsupportedError, match=text):
                convert_folder(folder, out)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a": 1, "a": 2}', "\xff", '{"a": ' + "9" * 5000 + "}", "3"]
)
def test_files_that_hold_no_json_object_are_one_error(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(GGUFError, match=r"config\.json: JSON"):
        convert_folder(folder, folder.parent / "out.gguf")


def test_a_token_that_is_half_a_character_is_refused(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    values["added_tokens"][0]["content"] = "\ud800"
    write_json(folder / "tokenizer.json", values)
    with pytest.raises(
        TokenizerError, match=r"model.vocab: expected texts that can be encoded in UTF-8, got '.ud800'"
    ):
        convert_folder(folder, tmp_path / "out.gguf")
