"""Pickles and deep copies of models, tokenizers and files: they open the file again, and answer the same."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite import catalog, gguf
from llmlite.errors import ContentError, GGUFError, LlmliteError, MissingFileError, ModelError
from tests.support.tiny_models import tiny_model

IDS = [5, 6, 7, 8]
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().write(tmp_path_factory.mktemp("pickle") / "tiny.gguf", "Q8_0")


@ways
def test_a_model_comes_back_with_its_options_and_a_cache_of_its_own(path: Path, way: Any) -> None:
    model = ll.load(path, n_ctx=33, kv_dtype="f32", executor="eager", n_threads=1)
    again = way(model)
    assert (again.n_ctx, again.cache.dtype, type(again.executor)) == (33, np.float32, type(model.executor))
    np.testing.assert_array_equal(again.logits(IDS), model.logits(IDS))
    assert again.cache is not model.cache
    assert again.generate("the", temperature=0, max_tokens=5) == model.generate(
        "the", temperature=0, max_tokens=5
    )


@ways
def test_a_tokenizer_comes_back_as_it_was_set(path: Path, way: Any) -> None:
    for tokenizer in (
        ll.load(path, executor="eager").tokenizer,
        ll.tokenizers.from_metadata(tiny_model().metadata),
    ):
        before = tokenizer.encode("the fox<|im_end|>")
        tokenizer.add_bos = True
        again = way(tokenizer)
        assert again.encode("the fox<|im_end|>") == [tokenizer.bos_id, *before]
        assert again.eog_ids == tokenizer.eog_ids
        assert again.decode(before) == tokenizer.decode(before)


def test_a_tokenizers_pickle_needs_no_file(path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "gone.gguf"
    copied.write_bytes(path.read_bytes())
    kept = pickle.dumps(ll.load(copied, executor="eager").tokenizer)
    copied.unlink()
    assert pickle.loads(kept).decode(pickle.loads(kept).encode("the")) == "the"


@ways
@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_comes_back_whatever_folder_one_is_in(
    path: Path, way: Any, mmap: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(path.parent)
    file = gguf.read(path.name, mmap=mmap)
    monkeypatch.chdir(tmp_path)
    assert_same(way(file), file)


@ways
def test_bytes_in_memory_and_split_models_come_back(path: Path, way: Any, tmp_path: Path) -> None:
    file = gguf.from_bytes(path.read_bytes(), "in memory")
    assert_same(way(file), file)
    first, *_ = gguf.split(path, tmp_path / "part", max_tensors=5)
    split = gguf.read(first)
    assert_same(way(split), split)
    assert len(way(split).shards) == len(split.shards) > 1


@ways
def test_tensors_put_in_place_of_others_stay_there(path: Path, way: Any) -> None:
    file = gguf.read(path)
    name = "blk.0.ffn_up.weight"
    other = ll.QuantTensor.quantize(np.full(file.tensors[name].shape, 127.0), "Q8_0", name)
    changed = way(file.replacing(other))
    assert (changed.tensors[name].dequantize() == 127).all()
    assert not (file.tensors[name].dequantize() == 127).all()


@ways
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_a_tensor_comes_back_bit_for_bit(path: Path, tmp_path: Path, way: Any, byte_order: str) -> None:
    source = gguf.read(path)
    gguf.write(tmp_path / "out.gguf", source.metadata, source.tensors, byte_order=byte_order)
    for name, tensor in gguf.read(tmp_path / "out.gguf").tensors.items():
        again = way(tensor)
        assert (again.name, again.type, again.shape) == (name, tensor.type, tensor.shape)
        np.testing.assert_array_equal(again.blocks, source.tensors[name].blocks)


def test_a_file_of_another_size_is_refused_and_a_missing_one_is_an_os_error(
    path: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copy.gguf"
    copied.write_bytes(path.read_bytes())
    kept = pickle.dumps(gguf.read(copied))
    tiny_model(n_layer=1).write(copied)
    with pytest.raises(GGUFError, match="bytes, as when it was pickled, got"):
        pickle.loads(kept)
    copied.unlink()
    with pytest.raises(OSError):
        pickle.loads(kept)
    file = gguf.read(path)
    file.close()
    with pytest.raises(ValueError, match="the file was closed"):
        pickle.dumps(file)


def test_another_process_can_use_what_is_sent_to_it(path: Path) -> None:
    model = ll.load(path, executor="eager")
    code = (
        "import pickle, sys; model = pickle.loads(sys.stdin.buffer.read());"
        f"print(model.stream({IDS}, temperature=0, max_tokens=6)._prompt_ids, "
        f"float(model.logits({IDS}).sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(model),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.decode().strip() == f"{IDS} {float(model.logits(IDS).sum())}"


# Errors


def test_every_error_survives_a_pickle() -> None:
    errors = [
        GGUFError("a.gguf", "n_kv", 16, "1", 2, "hint"),
        ModelError.at("tokenizer.ggml.tokens", "a string", 5, index=7),
        ContentError("no field"),
        MissingFileError(2, "no such file", "a.gguf"),
        LlmliteError("text"),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        assert getattr(again, "field", None) == getattr(error, "field", None)


def test_a_missing_model_is_an_os_error_too() -> None:
    for load in (ll.load, ll.model_path):
        with pytest.raises(OSError) as caught:
            load("nosuch.gguf")
        assert isinstance(caught.value, FileNotFoundError) and isinstance(caught.value, LlmliteError)
        assert caught.value.filename == "nosuch.gguf"
        assert str(caught.value) == (
            "nosuch.gguf: no such file, and no bundled model or package of that name (there are: 'tales', "
            + ", ".join(f"{name!r}" for name in catalog.PACKAGED)
            + ")"
        )
    with pytest.raises(FileNotFoundError, match="bundled data is missing"):
        ll.data_path("nosuch")


def test_an_errors_field_is_what_it_was_made_with_whatever_its_name() -> None:
    error = ModelError.about("a: b[3]", "wrong", expected="right")
    assert (error.field, error.key, error.index, str(error)) == ("a: b[3]", "a: b[3]", None, "a: b[3]: wrong")
    error = ModelError.at("a", "a number", "b: c", index=2)
    assert (error.field, str(error)) == ("a[2]", "a[2]: expected a number, got b: c")


@pytest.mark.parametrize("name", ["odd: name", "odd[3]", "odd[3]: "])
def test_an_error_about_an_oddly_named_tensor_has_its_place(tmp_path: Path, name: str) -> None:
    model = tiny_model()
    model.arrays[name] = np.ones(4, np.float32)
    path = model.write(tmp_path / "odd.gguf")
    with pytest.raises(ModelError) as caught:
        ll.load(path, executor="eager")
    file = gguf.read(path)
    assert caught.value.field == name
    assert caught.value.offset == file._head.tensors[name].name_offset


def assert_same(one: gguf.GGUFFile, other: gguf.GGUFFile) -> None:
    assert (one.path, one.file_size, list(one.metadata)) == (
        other.path,
        other.file_size,
        list(other.metadata),
    )
    for name, tensor in other.tensors.items():
        np.testing.assert_array_equal(one.tensors[name].blocks, tensor.blocks)
