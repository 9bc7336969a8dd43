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
from llmlite.errors import ModelError, UnsupportedError
from llmlite.huggingface import convert_folder
from llmlite.huggingface.convert import interleaved
from llmlite.model import load
from tests.support.huggingface_folders import (
    changed,
    safetensors,
    their_arrays,
    write_folder,
    write_json,
)
from tests.support.tiny_models import CHATML, tiny_model


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
