"""Safetensors files: their tensors, and that no malformed one gets past."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmlite.errors import GGUFError, UnsupportedError
from llmlite.huggingface import read_safetensors
from tests.support.huggingface_folders import packed, safetensors

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


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
