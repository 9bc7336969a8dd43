"""Make contents of GGUF files (metadata of every type, random tensors), and compare files."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmlite import gguf
from llmlite.gguf import Typed
from llmlite.quants import TYPES
from llmlite.quants.tensor import QuantTensor
from tests.support.gguf_builder import GGUFBuilder

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.bool": True,
    "a.u32": 7,
    "a.i32": -7,
    "a.u64": 1 << 40,
    "a.i64": -(1 << 40),
    "a.f32": 0.5,
    "a.f64": 1e300,
    "n.u16": np.uint16(7),
    "n.bool": np.bool_(False),
    "t.i8": Typed(-3, "i8"),
    "t.bytes": Typed(b"\xff\x00", "string"),
    "l.i32": [1, -2, 3],
    "l.u32": [1, 1 << 31],
    "l.i64": [-1, 1 << 31],
    "l.u64": [0, 1 << 63],
    "l.f32": [1, 2.5],
    "l.f64": [1.0, 1e300],
    "l.bool": [True, False],
    "l.string": ["", "ä", "x"],
    "l.empty": Typed([], "[string]"),
    "n.f32": np.arange(5, dtype=np.float32),
    "n.u8": np.arange(5, dtype=">u1"),
    "n.i16": np.arange(5, dtype=">i2")[::2],
}
TYPES_OF_METADATA = """string bool u32 i32 u64 i64 f32 f64 u16 bool i8 string [i32] [u32] [i64] [u64] [f32]
    [f64] [bool] [string] [string] [f32] [u8] [i16]""".split()
VARIANTS = [(1, "little"), (2, "little"), (2, "big"), (3, "little"), (3, "big")]
SCALARS = {
    "u8": 200, "i8": -100, "u16": 60000, "i16": -30000, "u32": 4_000_000_000, "i32": -2_000_000_000,
    "f32": 0.1, "bool": True, "u64": 1 << 63, "i64": -(1 << 62), "f64": 0.1,
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal; NaN equals NaN, and arrays must have the same type."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return isinstance(b, float) and (a == b or (a != a and b != b))
    return type(a) is type(b) and a == b


def assert_same_file(a: gguf.GGUFFile, b: gguf.GGUFFile) -> None:
    assert list(a.metadata) == list(b.metadata)
    for key in a.metadata:
        assert a.metadata_type(key) == b.metadata_type(key), key
        assert same(a.metadata[key], b.metadata[key]), key
    assert list(a.tensors) == list(b.tensors)
    for name, tensor in a.tensors.items():
        other = b.tensors[name]
        assert (tensor.type, tensor.shape) == (other.type, other.shape)
        assert np.array_equal(tensor.blocks, other.blocks)


def random_tensors(seed: int = 0) -> dict[str, QuantTensor]:
    """Return a tensor of random bits for each type that a file may hold."""
    bits = np.random.default_rng(seed)
    tensors = {}
    for kind in TYPES.values():
        blocks = bits.integers(0, 256, (6, kind.type_size), np.uint8)
        tensors[f"a.{kind.name}"] = QuantTensor(f"a.{kind.name}", kind, (3, 2 * kind.block_size), blocks)
    return tensors


def everything(version: int = 3, byte_order: str = "little") -> GGUFBuilder:
    """Return a builder of a file with each value type, each array type, and two tensors."""
    builder = GGUFBuilder(version, byte_order).kv("general.architecture", "string", "llama")
    for name, value in SCALARS.items():
        builder.kv(f"one.{name}", name, value)
        builder.array(f"many.{name}", name, [value, value])
        builder.array(f"none.{name}", name, [])
    builder.array("many.string", "string", ["", "a", "Ünï", "x" * 300, "\0zero", "last"])
    builder.array("none.string", "string", [])
    values = np.arange(6, dtype=np.float32)
    data = values.astype("<f4" if byte_order == "little" else ">f4").tobytes()
    builder.tensor("first", (3, 2), 0, 24, data=data)
    halves = np.array([1.5, -2], np.float16).astype("<f2" if byte_order == "little" else ">f2").tobytes()
    return builder.tensor("second", (2,), 1, 4, data=halves)
