"""Hugging Face folders: what becomes of them, and that no malformed one gets past."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import cli, gguf
from llmlite.errors import GGUFError, LlmliteError, ModelError, TokenizerError, UnsupportedError
from llmlite.huggingface import convert_folder, read_safetensors
from llmlite.huggingface.convert import interleaved
from llmlite.model import load
from tests.support.huggingface_folders import packed, safetensors, their_arrays, write_folder, write_json
from tests.support.tiny_models import CHATML, tiny_model

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", tiny_model())


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize(("tied", "n_shards"), [(False, 1), (True, 3)])
def test_a_folder_becomes_the_file_it_was_made_from(
    architecture: str, tied: bool, n_shards: int, tmp_path: Path
) -> None:
    model = tiny_model(architecture, tied=tied)
    source = write_folder(tmp_path / "tiny", model, n_shards=n_shards)
    convert_folder(source, tmp_path / "got.gguf")
    got = gguf.read(tmp_path / "got.gguf")
    assert got.tensors.keys() == model.arrays.keys()
    for name, array in model.arrays.items():
        np.testing.assert_array_equal(got.tensors[name].dequantize(), array, err_msg=name)
    for key, value in model.metadata.items():
        found = got.metadata[key]
        if isinstance(value, float):
            assert found == pytest.approx(value)
        else:
            assert np.array_equal(found, value), key
    assert (got.metadata["general.name"], got.metadata["general.file_type"]) == ("tiny", 0)
    ours, theirs = (
        load(path, executor="eager") for path in (tmp_path / "got.gguf", model.write(tmp_path / "w"))
    )
    np.testing.assert_array_equal(ours.logits([5, 6, 7]), theirs.logits([5, 6, 7]))


def test_rows_of_a_head_are_interleaved() -> None:
    rows = np.arange(8)[:, None]  # two heads of four elements: pairs (0, 2), (1, 3) become neighbours
    assert interleaved(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("file_type", "expected"), [("F16", "F16"), ("BF16", "BF16"), ("Q8_0", "Q8_0"), ("Q4_K_M", "Q5_0")]
)
def test_matrices_take_the_type_asked_for_and_vectors_f32(
    folder: Path, tmp_path: Path, file_type: str, expected: str
) -> None:
    out = tmp_path / "out.gguf"
    convert_folder(folder, out, file_type=file_type)
    file = gguf.read(out)
    assert file.tensors["blk.0.attn_q.weight"].type.name == expected  # 64 columns: too few for Q4_K
    assert file.tensors["blk.0.attn_norm.weight"].type.name == "F32"
    assert ("general.quantization_version" in file.metadata) == file_type.startswith("Q")
    assert load(out, executor="eager").logits([5, 6]).shape == (2, 267)


def test_bf16_stays_as_it_is_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    arrays = their_arrays(tiny_model())
    halves = {name: (array.view(np.uint32) >> 16).astype("<u2") for name, array in arrays.items()}
    data = safetensors(halves, dtypes=dict.fromkeys(halves, "BF16"))
    (folder / "model.safetensors").write_bytes(data)
    convert_folder(folder, tmp_path / "out.gguf")
    file = gguf.read(tmp_path / "out.gguf")
    assert file.metadata["general.file_type"] == 32
    assert file.tensors["output.weight"].blocks.tobytes() == halves["lm_head.weight"].tobytes()
    assert file.tensors["output_norm.weight"].type.name == "F32"


def test_numbers_beyond_f16_are_refused_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    arrays = their_arrays(tiny_model())
    arrays["lm_head.weight"][3, 3] = 1e5
    (folder / "model.safetensors").write_bytes(safetensors(arrays))
    with pytest.raises(ModelError, match=r"output.weight: .* row 3, column 3 is 100000, .*BF16 can"):
        convert_folder(folder, tmp_path / "out.gguf", file_type="F16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_types_that_need_an_importance_matrix_come_later(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", tiny_model(n_layer=1, n_embd=256, n_ff=256))
    with pytest.raises(UnsupportedError, match="can't be converted to IQ1_S directly: convert to F16"):
        convert_folder(folder, tmp_path / "out.gguf", file_type="IQ1_S")


def test_progress_counts_to_the_end(folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    convert_folder(folder, tmp_path / "out.gguf", progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] > 0 and steps == sorted(steps)


# Tokenizers


def changed(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change one JSON file; a change that returns something replaces it."""
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    write_json(folder / name, change(value) or value)


def metadata_after(folder: Path, name: str, change: Callable[[Any], Any]) -> Any:
    changed(folder, name, change)
    out = folder.parent / "out.gguf"
    convert_folder(folder, out)
    return gguf.read(out).metadata


def test_rows_without_a_token_become_unused_tokens(folder: Path) -> None:
    metadata = metadata_after(folder, "tokenizer.json", lambda t: t["added_tokens"].pop(1) and None)
    assert metadata["tokenizer.ggml.tokens"][265] == "[PAD265]"
    assert metadata["tokenizer.ggml.token_type"].tolist()[264:] == [3, 5, 3]


def test_an_added_token_that_is_not_special_is_user_defined(folder: Path) -> None:
    metadata = metadata_after(folder, "tokenizer.json", lambda t: t["added_tokens"][1].update(special=False))
    assert metadata["tokenizer.ggml.token_type"].tolist()[264:] == [3, 4, 3]


def test_a_template_adds_bos_unless_the_settings_say_no(folder: Path) -> None:
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}]}
    metadata = metadata_after(folder, "tokenizer.json", lambda t: t.update(post_processor=template))
    assert metadata["tokenizer.ggml.add_bos_token"] and not metadata["tokenizer.ggml.add_eos_token"]
    metadata = metadata_after(folder, "tokenizer_config.json", lambda t: t.update(add_bos_token=False))
    assert not metadata["tokenizer.ggml.add_bos_token"]


def test_special_ids_come_from_config_json_where_the_tokenizer_is_silent(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    metadata = metadata_after(
        folder, "config.json", lambda c: c.update(bos_token_id=264, eos_token_id=[266, 264])
    )
    assert (metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]) == (264, 266)


def test_chat_templates_are_found_in_all_three_places(folder: Path) -> None:
    several = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    metadata = metadata_after(folder, "tokenizer_config.json", lambda c: c.update(chat_template=several))
    assert metadata["tokenizer.chat_template"] == "D" and metadata["tokenizer.chat_template.tool_use"] == "T"
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    assert metadata_after(folder, "config.json", lambda c: None)["tokenizer.chat_template"] == CHATML


def test_a_token_that_eats_blanks_is_warned_of(folder: Path, tmp_path: Path) -> None:
    changed(folder, "tokenizer.json", lambda t: t["added_tokens"][1].update(rstrip=True))
    with pytest.warns(UserWarning, match="includes or requires the blanks"):
        convert_folder(folder, tmp_path / "out.gguf")


def test_the_pre_tokenizer_can_be_named(folder: Path, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "[aeiou]+"}, "behavior": "Isolated", "invert": False}
    pre = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]}
    changed(folder, "tokenizer.json", lambda t: t.update(pre_tokenizer=pre))
    with pytest.raises(UnsupportedError, match=r"have no name in llmlite: '\[aeiou\]\+'"):
        convert_folder(folder, tmp_path / "out.gguf")
    convert_folder(folder, tmp_path / "out.gguf", pre="qwen2")
    assert gguf.read(tmp_path / "out.gguf").metadata["tokenizer.ggml.pre"] == "qwen2"
    with pytest.raises(UnsupportedError, match="unknown pre-tokenizer 'mine'; known are"):
        convert_folder(folder, tmp_path / "out.gguf", pre="mine")


# What is refused: the file to change, the change, the exception, its text


def drop(key: str) -> Callable[[Any], Any]:
    return lambda value: value.pop(key) and None


def put(*path: Any) -> Callable[[Any], Any]:
    """put("a", "b", 1): set value["a"]["b"] = 1."""
    *keys, last, new = path

    def change(value: Any) -> None:
        for key in keys:
            value = value[key]
        value[last] = new

    return change


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


# Folders and their index


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


# Safetensors


def test_tensors_are_views_of_the_file_in_any_order_of_names(tmp_path: Path) -> None:
    arrays = {
        "z": np.arange(6, dtype="<f4").reshape(2, 3),
        "a": np.array([1.5, -2], "<f2"),
        "s": np.float64(3).reshape(()),
    }
    (tmp_path / "x").write_bytes(safetensors(arrays))
    found = read_safetensors(tmp_path / "x")
    assert {name: (t.type.name, t.shape) for name, t in found.items()} == {
        "z": ("F32", (2, 3)),
        "a": ("F16", (2,)),
        "s": ("F64", ()),
    }
    np.testing.assert_array_equal(found["z"].dequantize(), arrays["z"])
    assert not found["z"].blocks.flags.owndata and not found["z"].blocks.flags.writeable


def test_other_readers_agree(tmp_path: Path) -> None:
    peer = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(4, dtype=np.float16)}
    (tmp_path / "ours").write_bytes(safetensors(arrays))
    peer.save_file(arrays, tmp_path / "theirs")
    for name, array in arrays.items():
        np.testing.assert_array_equal(peer.load_file(tmp_path / "ours")[name], array)
        np.testing.assert_array_equal(read_safetensors(tmp_path / "theirs")[name].dequantize(), array)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "header at byte 0: expected 8 bytes"),
        (b"1234567", "header at byte 0: expected 8 bytes"),
        (b"\xff" * 8, "header: length at byte 0: expected at most 100000000"),
        (packed(b"{}")[:-1], "header: length at byte 0: expected at most 1"),
        (packed(b"[]"), "expected an object"),
        (packed(b"\xff\xfe"), "expected UTF-8"),
        (packed(b'{"a": {}, "a": {}}'), "expected each key once, got 'a' again"),
        (packed({"a": 3}), "a: expected dtype, shape and data_offsets"),
        (packed({"a": F32 | {"dtype": "F99"}}, bytes(8)), "a: dtype: expected one of F64"),
        (packed({"a": F32 | {"dtype": ["F32"]}}, bytes(8)), "a: dtype: expected one of F64"),
        (packed({"a": F32 | {"shape": [-2]}}, bytes(8)), "a: shape: expected a list of sizes"),
        (packed({"a": F32 | {"shape": [2.0]}}, bytes(8)), "a: shape: expected a list of sizes"),
        (packed({"a": F32 | {"shape": [1] * 9}}, bytes(8)), "a: shape: expected a list of sizes"),
        (packed({"a": F32 | {"shape": [2**62, 2**62]}}, bytes(8)), "a: data_offsets: expected 8507"),
        (packed({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)), "a: data_offsets: expected [begin, end]"),
        (
            packed({"a": F32 | {"data_offsets": [0, 8, 8]}}, bytes(8)),
            "a: data_offsets: expected [begin, end]",
        ),
        (
            packed({"a": F32 | {"data_offsets": [0, 2**63]}}, bytes(8)),
            "a: data_offsets: expected [begin, end]",
        ),
        (
            packed({"a": F32 | {"shape": [3]}}, bytes(8)),
            "a: data_offsets: expected 12 bytes for F32 of shape [3], got 8",
        ),
        (packed({"a": F32}, bytes(7)), "a: data_offsets: expected an end within the 7 bytes of data, got 8"),
        (
            packed({"a": F32, "b": F32}, bytes(8)),
            "b: data_offsets: expected a beginning at 8, the end of the previous tensor",
        ),
        (
            packed({"a": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
            "a: data_offsets: expected a beginning at 0",
        ),
        (packed({"a": F32}, bytes(9)), "data at byte"),
        (packed({"a\x1b[2J": 3}), r"a\x1b[2J: expected dtype"),
    ],
)
def test_malformed_files_say_what_is_wrong_where(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(GGUFError) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ") and text in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = safetensors({"a": np.arange(3, dtype=np.float32), "b": np.arange(2, dtype=np.float16)})
    path = tmp_path / "x"
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(GGUFError):
            read_safetensors(path)


def test_tensors_of_integers_are_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(safetensors({"w": np.zeros(3, np.uint8)}))
    with pytest.raises(UnsupportedError, match="w is U8: only models in F64, F32, F16, BF16"):
        read_safetensors(tmp_path / "x")


# The command


def test_the_command_converts_and_refuses_in_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert cli.main(["convert", str(folder), str(out), "--type", "q8_0"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert cli.main(["convert", str(folder), str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    for arguments in (
        ["--force", "--type", "Q9"],
        ["--force", "--pre", "mine"],
    ):
        assert cli.main(["convert", str(folder), str(out), *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["convert", str(out), str(tmp_path / "x"), "--type", "F16"]) == 2
    assert "only for folders" in capsys.readouterr().err


# What config.json and generation_config.json say, and what the folder holds


def untied(tmp_path: Path, change: float) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder that says its output is the embedding, but holds an lm_head that differs by `change`."""
    folder = write_folder(tmp_path / "untied", tiny_model(tied=True))
    arrays = their_arrays(tiny_model(tied=True))
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    arrays["lm_head.weight"][7, 7] += change
    (folder / "model.safetensors").write_bytes(safetensors(arrays))
    return folder, arrays


def test_an_lm_head_that_differs_from_the_embedding_is_kept(tmp_path: Path) -> None:
    folder, arrays = untied(tmp_path, 0.5)
    with pytest.warns(UserWarning, match=r"lm_head.weight differs from the embedding, though tie_word"):
        convert_folder(folder, tmp_path / "out.gguf")
    output = gguf.read(tmp_path / "out.gguf").tensors["output.weight"]
    np.testing.assert_array_equal(output.dequantize(), arrays["lm_head.weight"])
    embedding = gguf.read(tmp_path / "out.gguf").tensors["token_embd.weight"]
    np.testing.assert_array_equal(embedding.dequantize(), arrays["model.embed_tokens.weight"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_lm_head_equal_to_the_embedding_is_left_out(tmp_path: Path, dtype: type) -> None:
    folder, arrays = untied(tmp_path, 0)
    arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(dtype)
    (folder / "model.safetensors").write_bytes(safetensors(arrays))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_folder(folder, tmp_path / "out.gguf")
    assert "output.weight" not in gguf.read(tmp_path / "out.gguf").tensors


ENDS = [
    ([256, 257], None, {256, 257}),
    (None, [65, 66], {65, 66}),
    ([65], [66, 67], {65, 66, 67}),
    ([65, 66, 67, 68, 69], [65, 70], {65, 66, 67, 68, 69, 70}),
    (65, 66, {65, 66}),
    ([], [], set()),
]


@pytest.mark.parametrize(("config", "generation", "expected"), ENDS)
@pytest.mark.parametrize("named", [True, False])
def test_every_end_token_of_the_folder_ends_a_reply(
    folder: Path, tmp_path: Path, config: Any, generation: Any, expected: set[int], named: bool
) -> None:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", values | {"eos_token_id": config})
    write_json(folder / "generation_config.json", {"eos_token_id": generation})
    if not named:
        write_json(folder / "tokenizer_config.json", {"bos_token": "<|endoftext|>"})
    convert_folder(folder, tmp_path / "out.gguf")
    model = load(tmp_path / "out.gguf", executor="eager")
    assert expected <= model.tokenizer.eog_ids
    assert named == (model.tokenizer.token_id("<|im_end|>") == model.tokenizer.eos_id)
    for token in expected:
        logits = np.full(model.config.n_vocab, -1.0, np.float32)
        logits[token] = 1
        model._next_logits = lambda ids, logits=logits: (0, logits)  # type: ignore[method-assign]
        generation_of = model.stream([5], temperature=0, max_tokens=3)
        assert "".join(generation_of) == "" and generation_of.stop_reason == "eos"  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [10**6, -1, "</s>", 1.5, True])
def test_an_end_token_outside_the_vocabulary_is_warned_of(folder: Path, tmp_path: Path, wrong: Any) -> None:
    write_json(folder / "generation_config.json", {"eos_token_id": [65, wrong]})
    with pytest.warns(UserWarning, match="eos_token_id: .* is not a token of the vocabulary; it is ignored"):
        convert_folder(folder, tmp_path / "out.gguf")
    assert 65 in load(tmp_path / "out.gguf", executor="eager").tokenizer.eog_ids


def test_a_token_that_is_half_a_character_is_refused(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    values["added_tokens"][0]["content"] = "\ud800"
    write_json(folder / "tokenizer.json", values)
    with pytest.raises(
        TokenizerError, match=r"model.vocab: expected texts that can be encoded in UTF-8, got '.ud800'"
    ):
        convert_folder(folder, tmp_path / "out.gguf")
