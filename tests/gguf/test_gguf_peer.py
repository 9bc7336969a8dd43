"""GGUF files against the `gguf` package: each reads what the other writes."""

from __future__ import annotations

import argparse
import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import gguf
from llmlite.quants import TYPES, by_name
from llmlite.quants.tensor import QuantTensor
from tests.support.gguf_contents import METADATA, TYPES_OF_METADATA, random_tensors

peer = pytest.importorskip("gguf", reason="the gguf package is not installed")
SHORT = {"UINT": "u", "INT": "i", "FLOAT": "f"}


def short(kind: Any) -> str:
    """Our name of a value type of the peer."""
    name = kind.name
    for long, letter in SHORT.items():
        if name.startswith(long):
            return letter + name[len(long) :]
    return name.lower()


def assert_peer_sees_the_same(path: Path) -> None:
    """Compare all that both readers say of a file."""
    file, other = gguf.read(path), peer.GGUFReader(path)
    fields = {name: field for name, field in other.fields.items() if not name.startswith("GGUF.")}
    assert list(fields) == list(file.metadata)
    for name, field in fields.items():
        kinds = [short(kind) for kind in field.types]
        if kinds[0] == "array":
            # of an empty array the peer doesn't know the elements' type
            assert (
                file.metadata_type(name) == f"[{kinds[1]}]"
                if len(kinds) > 1
                else not len(file.metadata[name])
            )
            np.testing.assert_equal(list(file.metadata[name]), field.contents() if len(kinds) > 1 else [])
        else:
            assert file.metadata_type(name) == kinds[0]
            np.testing.assert_equal(file.metadata[name], field.contents())
    assert [tensor.name for tensor in other.tensors] == list(file.tensors)
    for theirs in other.tensors:
        ours = file.tensors[theirs.name]
        assert ours.type.id == theirs.tensor_type
        assert ours.dims == tuple(theirs.shape.tolist())
        if file.byte_order == "little":
            assert ours.blocks.tobytes() == theirs.data.tobytes(), theirs.name


def known_to_peer() -> dict[str, QuantTensor]:
    known = {kind.value for kind in peer.GGMLQuantizationType}
    known.remove(by_name("Q8_1").id)  # it takes 40 bytes for a block, where libggml has 36
    return {name: tensor for name, tensor in random_tensors().items() if tensor.type.id in known}


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("version", [2, 3])
def test_peer_reads_what_we_write(tmp_path: Path, version: int, byte_order: str) -> None:
    path = tmp_path / "ours.gguf"
    readable = {key: value for key, value in METADATA.items() if key != "t.bytes"}  # it wants UTF-8
    gguf.write(path, readable, known_to_peer(), version=version, byte_order=byte_order, alignment=64)
    assert_peer_sees_the_same(path)


def test_peer_reads_the_bundled_model_like_us(tales: Path) -> None:
    assert_peer_sees_the_same(tales)


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_we_read_what_the_peer_writes(tmp_path: Path, byte_order: str) -> None:
    path = tmp_path / "theirs.gguf"
    order = peer.GGUFEndian.LITTLE if byte_order == "little" else peer.GGUFEndian.BIG
    writer = peer.GGUFWriter(path, "llama", endianess=order)
    writer.add_custom_alignment(64)
    writer.add_uint8("u8", 200)
    writer.add_int64("i64", -(1 << 40))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "Ünï")
    writer.add_array("strings", ["a", "", "ß"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, 1.5])
    weights = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    writer.add_tensor("plain", weights)
    writer.add_tensor("half", weights.astype(np.float16))
    if byte_order == "little":  # it leaves quantized blocks as they are in a big-endian file
        q8 = peer.quants.quantize(weights, peer.GGMLQuantizationType.Q8_0)
        writer.add_tensor("quantized", q8, raw_dtype=peer.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_peer_sees_the_same(path)
    file = gguf.read(path)
    assert (file.byte_order, file.alignment) == (byte_order, 64)
    np.testing.assert_array_equal(file.tensors["plain"].dequantize(), weights)
    np.testing.assert_array_equal(file.tensors["half"].dequantize(), weights.astype(np.float16))


def test_big_endian_blocks_are_laid_out_as_the_peer_s_converter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = pytest.importorskip("gguf.scripts.gguf_convert_endian")
    names = ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4"]
    tensors = {name: tensor for name, tensor in random_tensors().items() if tensor.type.name in names}
    assert len(tensors) == len(names)
    scalars = {key: value for key, value in METADATA.items() if key != "t.bytes"}
    little, big = tmp_path / "little.gguf", tmp_path / "big.gguf"
    gguf.write(little, scalars, tensors)
    gguf.write(big, scalars, tensors, byte_order="big")
    monkeypatch.setattr(builtins, "input", lambda *_: "YES")
    arguments = argparse.Namespace(order="big", dry_run=False, verbose=False)
    convert.convert_byteorder(peer.GGUFReader(little, "r+"), arguments)
    assert little.read_bytes() == big.read_bytes()


@pytest.mark.parametrize("name", [kind.name for kind in TYPES.values() if kind.encode is not None])
def test_big_endian_tensors_dequantize_like_little_endian_ones(tmp_path: Path, name: str) -> None:
    weights = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    tensor = QuantTensor.quantize(weights, name, "w", np.ones(256, np.float32))
    gguf.write(tmp_path / "big.gguf", {}, {"w": tensor}, byte_order="big")
    read = gguf.read(tmp_path / "big.gguf").tensors["w"]
    np.testing.assert_array_equal(read.dequantize(), tensor.dequantize())
    assert read.n_bytes == tensor.n_bytes and repr(read).startswith("QuantTensor('w'")
    wide = any(by_name(name).layout[i].base.itemsize > 1 for i in range(len(by_name(name).layout)))
    raw = (tmp_path / "big.gguf").read_bytes()
    assert (tensor.blocks.tobytes() not in raw) == wide


def test_types_of_metadata_match_the_peer_s_numbers() -> None:
    for kind in gguf.values.VALUE_TYPES:
        assert short(peer.GGUFValueType(kind.id)) == kind.name
    assert len(TYPES_OF_METADATA) == len(METADATA)
