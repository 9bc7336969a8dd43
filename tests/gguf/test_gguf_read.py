"""Reading GGUF files: what comes out is what the builder put in, decoded when it is asked for."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from llmlite import GGUFError, gguf
from llmlite.gguf.values import StringOutOfBoundsError, string_starts
from tests.support.gguf_builder import CODES, VALUE_TYPES, GGUFBuilder
from tests.support.gguf_contents import SCALARS, VARIANTS, everything


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(("version", "byte_order"), VARIANTS)
def test_every_value_type_comes_back(tmp_path: Path, version: int, byte_order: str, mmap: bool) -> None:
    path = tmp_path / "all.gguf"
    path.write_bytes(everything(version, byte_order).build())
    file = gguf.read(path, mmap=mmap)
    assert (file.version, file.byte_order, file.alignment) == (version, byte_order, 32)
    assert file.metadata["general.architecture"] == "llama"
    for name, value in SCALARS.items():
        expected = float(np.float32(value)) if name == "f32" else value
        assert file.metadata[f"one.{name}"] == expected
        assert type(file.metadata[f"one.{name}"]) is type(expected)
        assert file.metadata_type(f"one.{name}") == name
        many = file.metadata[f"many.{name}"]
        assert many.tolist() == [expected, expected]
        assert many.dtype == np.dtype("=" + ("?" if name == "bool" else CODES[name]))
        assert many.flags.aligned and not many.flags.writeable
        assert len(file.metadata[f"none.{name}"]) == 0
        assert file.metadata_type(f"none.{name}") == f"[{name}]"
    assert file.metadata["many.string"] == ["", "a", "Ünï", "x" * 300, "\0zero", "last"]
    assert list(file.metadata["none.string"]) == []


@pytest.mark.parametrize(("version", "byte_order"), VARIANTS)
def test_tensors_dequantize_in_either_byte_order(version: int, byte_order: str) -> None:
    file = gguf.from_bytes(everything(version, byte_order).build())
    assert list(file.tensors) == ["first", "second"]
    assert file.tensors["first"].shape == (2, 3)
    np.testing.assert_array_equal(file.tensors["first"].dequantize(), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(file.tensors["second"].dequantize(), [1.5, -2])
    assert file.tensors["first"].n_bytes == 24


def test_little_endian_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    data = np.frombuffer(everything().build(), np.uint8)
    assert np.shares_memory(gguf.from_bytes(data).tensors["first"].blocks, data)


@pytest.mark.parametrize(("version", "byte_order"), VARIANTS)
def test_fields_cover_every_byte_once(version: int, byte_order: str) -> None:
    builder = everything(version, byte_order)
    data = builder.build(extra=b"more")
    with pytest.warns(gguf.GGUFWarning):
        file = gguf.from_bytes(data)
    fields = list(file.fields())
    at = 0
    for field in fields:
        assert field.offset == at
        at += field.n_bytes
    assert at == len(data)
    by_name = {field.name: field for field in fields}
    assert by_name["n_kv"].value == len(builder.entries)
    assert by_name["one.u16"] == ("one.u16", builder.at["kv[7].value"], 2, "u16", 60000)
    assert by_name["second: offset"].offset == builder.at["tensor[1].offset"]
    assert by_name["second: data"].offset == builder.at["tensor[1].data"]
    assert by_name["first: dims[1]"].value == 2
    assert fields[-1] == ("trailing bytes", len(data) - 4, 4, "padding", None)


def test_alignment_moves_the_data() -> None:
    builder = GGUFBuilder(alignment=128).kv("general.alignment", "u32", 128).tensor("a").tensor("b")
    file = gguf.from_bytes(builder.build())
    assert (file.alignment, file.data_offset) == (128, builder.at["data"])
    assert file.data_offset % 128 == 0
    assert file.tensors["b"].blocks[1].tolist() == [4, 5, 6, 7]


def test_final_padding_may_be_missing() -> None:
    builder = GGUFBuilder().tensor(dims=(1,), n_bytes=4)
    assert gguf.from_bytes(builder.build(cut=28)).tensors["weight"].n_elements == 1


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    builder = GGUFBuilder()
    builder.kv("s", "string", builder.string(b"\xff\xfe")).array("a", "string", [b"\x80", "é"])
    file = gguf.from_bytes(builder.build())
    assert file.metadata["s"].encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert file.metadata["a"].raw(0) == b"\x80"
    gguf.write(tmp_path / "copy.gguf", file.metadata, {})
    assert gguf.read(tmp_path / "copy.gguf").metadata["a"].raw(0) == b"\x80"


def test_string_array_is_a_sequence() -> None:
    texts = [f"token {i}" for i in range(10_000)]
    array = gguf.from_bytes(GGUFBuilder().array("t", "string", texts).build()).metadata["t"]
    assert array == texts and texts == array and array.tolist() == texts
    assert array != texts[:-1] and array != ["no"] * 10_000 and array != "text"
    assert array[17] == "token 17" and array[-1] == "token 9999" and array[5:8] == texts[5:8]
    assert array[9998:] == texts[9998:] and "token 3" in array and array.index("token 300") == 300
    assert array.span(3)[1] == 7 and repr(array).startswith("<StringArray of 10000: 'token 0'")
    for outside in (10_000, -10_001):
        with pytest.raises(IndexError):
            array[outside]


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("seed", range(8))
def test_fast_walk_over_strings_equals_the_slow_one(seed: int, byte_order: str, width: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 30_000))
    lengths = random.integers(0, 20, n)
    if seed % 2:  # empty, long and zero-filled strings break the runs
        lengths[random.random(n) < 0.05] = 0
        lengths[random.random(n) < 0.001] = random.integers(256, 70_000)
    out, starts = bytearray(b"before"), []
    for length in lengths.tolist():
        out += length.to_bytes(width, byte_order)
        starts.append(len(out))
        zeros = seed % 4 == 3 and random.random() < 0.3
        out += bytes(length) if zeros else random.integers(1 - seed % 3 % 2, 256, length, np.uint8).tobytes()
    data = np.frombuffer(bytes(out) + b"behind", np.uint8)
    found = string_starts(data, 6, n, width, byte_order)
    assert found.tolist() == [*starts, len(out) + width]
    with pytest.raises(StringOutOfBoundsError) as caught:
        string_starts(data[: len(out) - int(lengths[-1]) - 1], 6, n, width, byte_order)
    assert caught.value.index == n - 1


def test_walk_over_hostile_strings_stays_linear() -> None:
    string = (0).to_bytes(8, "little")
    mixed = b"".join(bytes([i % 3]) + bytes(7) + bytes(i % 3) for i in range(300_000))
    started = time.process_time()
    for data, n in ((string * 300_000, 300_000), (mixed, 300_000)):
        string_starts(np.frombuffer(data, np.uint8), 0, n, 8, "little")
    assert time.process_time() - started < 5  # about 0.3 s


def test_large_vocabulary_opens_fast_and_lazily(tmp_path: Path) -> None:
    tokens = [b"%x" % (i * i) for i in range(128_000)]
    merges = [tokens[i] + b" " + tokens[-i] for i in range(128_000)]
    builder = GGUFBuilder().array("tokens", "string", tokens).array("merges", "string", merges)
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(builder.array("scores", "f32", [0.5] * 128_000).build())
    seconds = []
    for _ in range(5):
        started = time.process_time()
        file = gguf.read(path)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.2  # about 0.01
    tracemalloc.start()
    gguf.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size
    assert file.metadata["tokens"][77] == tokens[77].decode()
    assert file.metadata["merges"][127_999] == merges[127_999].decode()


def test_hundreds_of_tensors_open_fast(tmp_path: Path) -> None:
    builder = GGUFBuilder()
    for i in range(1000):
        builder.tensor(f"blk.{i}.attn_q.weight", (64, 8), 0, 2048)
    path = tmp_path / "many.gguf"
    path.write_bytes(builder.build())
    seconds = []
    for _ in range(3):
        started = time.process_time()
        assert sum(tensor.n_elements for tensor in gguf.read(path).tensors.values()) == 512_000
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.3  # about 0.03


def test_arrays_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    path.write_bytes(everything().build())
    with gguf.read(path) as file:
        tensor, strings = file.tensors["first"], file.metadata["many.string"]
        assert "llama" in repr(file) and "<table>" in file._repr_html_()
    assert tensor.dequantize()[1, 2] == 5 and strings[1] == "a"
    assert "closed" in repr(file) and "closed" in file._repr_html_()
    for use in (lambda: file.metadata, lambda: file.tensors, lambda: list(file.fields())):
        with pytest.raises(ValueError, match="closed"):
            use()
    file.close()  # twice is fine


def test_missing_keys_and_tensors_are_key_errors() -> None:
    file = gguf.from_bytes(everything().build())
    assert file.metadata.get("nothing") is None and "nothing" not in file.tensors
    for use in (
        lambda: file.metadata["nothing"],
        lambda: file.metadata_type("nothing"),
        lambda: file.tensors["x"],
    ):
        with pytest.raises(KeyError):
            use()
    assert "keys: general.architecture" in repr(file.metadata)
    assert repr(file.tensors) == "<2 tensors: first, second>"


def test_not_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        gguf.read(tmp_path / "nothing.gguf")
    with pytest.raises(IsADirectoryError):
        gguf.read(tmp_path)
    import os

    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(GGUFError, match="regular file"):  # and doesn't wait for a writer
            gguf.read(tmp_path / "pipe")


def test_value_types_are_numbered_as_in_the_format() -> None:
    assert [t.name for t in gguf.values.VALUE_TYPES] == VALUE_TYPES
