"""Write GGUF files: whole or not at all."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llmlite.errors import GGUFError
from llmlite.gguf.content import Metadata, byte_swapped
from llmlite.gguf.parse import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMS,
    MAX_NAME,
    VERSIONS,
    padded,
    shown,
)
from llmlite.gguf.values import ARRAY, BY_NAME, STRING, StringArray, Typed, ValueType
from llmlite.quants import QuantType, by_name
from llmlite.quants.tensor import QuantTensor
from llmlite.system.files import replacing
from llmlite.system.guard import arm, check
from llmlite.terminal import Progress

SLAB = 1 << 24  # bytes of a tensor that are written, or converted to big-endian, at once


@dataclass(frozen=True)
class _Spec:
    """The format of a file's numbers, and its path for errors."""

    path: str
    version: int
    byte_order: str
    alignment: int

    @property
    def order(self) -> str:
        return "<" if self.byte_order == "little" else ">"

    def pack(self, code: str, value: Any) -> bytes:
        return struct.pack(self.order + code, value)

    def length(self, n: int) -> bytes:
        return self.pack("Q" if self.version > 1 else "I", n)

    def count(self, n: int) -> bytes:
        return self.pack("q" if self.version > 1 else "I", n)

    def string(self, raw: bytes) -> bytes:
        return self.length(len(raw)) + raw

    def fail(self, field: str, expected: str, got: object, hint: str | None = None) -> GGUFError:
        return GGUFError(self.path, field, None, expected, got, hint)


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, QuantTensor | np.ndarray],
    *,
    version: int = 3,
    byte_order: str = "little",
    alignment: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a GGUF file. At every moment, `path` holds either the old file or the whole new one.

    Args:
        path: path of the file.
        metadata: key -> value. The metadata of a file that was read keeps its types, and so does its
            `typed()`. Other values are stored as follows: bool as bool; str as string; int as the first of
            u32, i32, u64 and i64 that holds it; float as f32, or as f64 if f32 would overflow; NumPy scalars
            and 1-D arrays in their own type; lists by their elements, whole numbers as i32 if they fit.
            `Typed(value, "u16")` gives a type explicitly.
        tensors: name -> QuantTensor, or an array of floats (16, 32 or 64 bits) or signed integers, which is
            stored in its own type. A tensor's `blocks` are requested only when it is written.
        version: 1, 2 or 3.
        byte_order: "little" or "big".
        alignment: alignment of the tensors' data in bytes, a power of two. None: metadata's, or 32.
        progress: called as progress(bytes_done, n_bytes) while the tensors' data is written.

    Raises:
        GGUFError: the format can't hold a key, a value or a tensor; the error names it.
        OSError: the file can't be written.

    Source: the GGUF specification in ggml's docs/gguf.md.
    """
    path = os.fspath(path)
    values = metadata.typed() if isinstance(metadata, Metadata) else dict(metadata)
    spec = _spec(path, values, version, byte_order, alignment)
    records = [_Record.of(spec, name, tensor) for name, tensor in tensors.items()]
    head = _head(spec, values, records)
    n_bytes = sum(record.n_bytes for record in records)
    with replacing(path) as file:
        file.write(head)
        file.write(bytes(padded(len(head), spec.alignment) - len(head)))
        done = 0
        for record in records:
            for slab in record.slabs(tensors[record.name], spec):
                file.write(slab)
                done += len(slab)
                if progress is not None:
                    progress(done, n_bytes)
            file.write(bytes(padded(record.n_bytes, spec.alignment) - record.n_bytes))


def _spec(path: str, values: dict[str, Any], version: int, byte_order: str, alignment: int | None) -> _Spec:
    """Check the options, and determine the alignment. If it isn't the default, add it to the values."""
    if version not in VERSIONS:
        raise GGUFError(path, "version", None, "1, 2 or 3", version)
    if byte_order not in ("little", "big"):
        raise GGUFError(path, "byte_order", None, '"little" or "big"', repr(byte_order))
    noted = values.get("general.alignment")
    noted = noted.value if isinstance(noted, Typed) else noted
    chosen = alignment if alignment is not None else DEFAULT_ALIGNMENT if noted is None else noted
    if not isinstance(chosen, int | np.integer) or chosen & (chosen - 1) or not 0 < chosen <= MAX_ALIGNMENT:
        raise GGUFError(path, "general.alignment", None, f"a power of two, at most {MAX_ALIGNMENT}", chosen)
    if noted is not None or chosen != DEFAULT_ALIGNMENT:
        values["general.alignment"] = Typed(int(chosen), "u32")
    return _Spec(path, version, byte_order, int(chosen))


class _Record(NamedTuple):
    """The head's entry of a tensor."""

    name: str
    dims: tuple[int, ...]
    type: QuantType
    n_bytes: int

    @classmethod
    def of(cls, spec: _Spec, name: str, tensor: QuantTensor | np.ndarray) -> _Record:
        if not isinstance(name, str) or not name or "\0" in name:
            raise spec.fail("tensor name", "a text that isn't empty and has no NUL", ascii(name))
        if len(_utf8(spec, name)) > MAX_NAME:
            raise spec.fail("tensor name", f"at most {MAX_NAME} bytes", shown(name))
        if not isinstance(tensor, QuantTensor | np.ndarray):
            raise spec.fail(name, "a QuantTensor or a NumPy array", type(tensor).__name__)
        kind = tensor.type if isinstance(tensor, QuantTensor) else _type_of(spec, name, tensor)
        dims = tuple(int(n) for n in tensor.shape[::-1])
        if not 1 <= len(dims) <= MAX_DIMS or min(dims) < 1:
            expected = f"1 to {MAX_DIMS} dimensions of at least 1"
            raise spec.fail(f"{name}: shape", expected, tuple(tensor.shape))
        if dims[0] % kind.block_size:
            expected = f"a multiple of the {kind.name} block, {kind.block_size}"
            raise spec.fail(f"{name}: row", expected, dims[0])
        n_elements = math.prod(dims)
        return cls(name, dims, kind, n_elements // kind.block_size * kind.type_size)

    def slabs(self, tensor: QuantTensor | np.ndarray, spec: _Spec) -> Iterator[memoryview]:
        """Yield the tensor's bytes in the file's byte order, at most about SLAB at a time."""
        if isinstance(tensor, np.ndarray):
            little = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
            blocks = little.reshape(-1).view(np.uint8).reshape(-1, self.type.type_size)
        else:
            blocks = tensor.blocks
        if blocks.nbytes != self.n_bytes:
            raise spec.fail(f"{self.name}: blocks", f"{self.n_bytes} bytes", blocks.nbytes)
        arm()
        step = max(1, SLAB // self.type.type_size)
        for at in range(0, len(blocks), step):
            slab = np.array(blocks[at : at + step])  # a copy: reading a page of a truncated file would fail
            check(blocks)
            if spec.byte_order == "big":
                slab = byte_swapped(slab, self.type)
            yield memoryview(np.ascontiguousarray(slab)).cast("B")


def _type_of(spec: _Spec, name: str, array: np.ndarray) -> QuantType:
    names = {"f": "F", "i": "I"}
    if array.dtype.kind not in names or array.dtype.itemsize > 8:
        raise spec.fail(f"{name}: dtype", "float16, float32, float64 or a signed integer", array.dtype)
    return by_name(f"{names[array.dtype.kind]}{8 * array.dtype.itemsize}")


def _utf8(spec: _Spec, name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise spec.fail("name", "text that can be encoded in UTF-8", ascii(name)) from None


def _head(spec: _Spec, values: Mapping[str, Any], records: Sequence[_Record]) -> bytes:
    """Return everything before the tensors' data."""
    out: list[bytes | memoryview] = [
        MAGIC,
        spec.pack("I", spec.version),
        spec.count(len(records)),
        spec.count(len(values)),
    ]
    for key, value in values.items():
        if not isinstance(key, str) or not key:
            raise spec.fail("key", "a text that isn't empty", repr(key))
        out.append(spec.string(_utf8(spec, key)))
        try:
            out.extend(_value(spec, key, value))
        except (struct.error, OverflowError, TypeError, ValueError) as error:
            raise spec.fail(shown(key), "a value that fits its type", f"{_short(value)}: {error}") from error
    offset = 0
    for record in records:
        out += [spec.string(record.name.encode()), spec.pack("I", len(record.dims))]
        out += [spec.count(n) for n in record.dims]
        out += [spec.pack("i", record.type.id), spec.pack("Q", offset)]
        offset = padded(offset + record.n_bytes, spec.alignment)
    return b"".join(out)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _value(spec: _Spec, key: str, value: Any) -> Iterator[bytes | memoryview]:
    """Yield the bytes of one entry's type and value."""
    typed = value if isinstance(value, Typed) else Typed(value, infer_type(value))
    is_array = typed.type.startswith("[")
    kind = BY_NAME.get(typed.type.strip("[]"))
    if kind is None or kind.id == ARRAY or typed.type not in (kind.name, f"[{kind.name}]"):
        raise spec.fail(shown(key), f"a type among {', '.join(BY_NAME)} or an array [type]", repr(typed.type))
    if not is_array:
        yield spec.pack("i", kind.id)
        yield _scalar(spec, kind, typed.value)
        return
    yield spec.pack("i", ARRAY) + spec.pack("i", kind.id) + spec.length(len(typed.value))
    if kind is STRING:
        yield from _strings(spec, typed.value)
    else:
        yield _numbers(kind, typed.value).astype(kind.dtype(spec.byte_order)).tobytes()


def _strings(spec: _Spec, values: Sequence[str | bytes]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of an array of strings. One from a file of the same form is copied as one piece."""
    width = 8 if spec.version > 1 else 4
    if isinstance(values, StringArray):
        stored = values.stored(width, spec.byte_order)
        if stored is not None:
            yield stored
            return
        values = [values.raw(i) for i in range(len(values))]
    for text in values:
        raw = _utf8_or_raw(text)
        yield len(raw).to_bytes(width, spec.byte_order)  # type: ignore[arg-type]
        yield raw


def _scalar(spec: _Spec, kind: ValueType, value: Any) -> bytes:
    if kind is STRING:
        return spec.string(_utf8_or_raw(value))
    if np.ndim(value):
        raise TypeError("not a single value")
    return _numbers(kind, [value]).astype(kind.dtype(spec.byte_order)).tobytes()


def _utf8_or_raw(value: Any) -> bytes:
    """Return the bytes of a text. Bytes that weren't UTF-8 when they were read are restored."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is not a string")
    return value.encode("utf-8", "surrogateescape")


def _numbers(kind: ValueType, values: Any) -> np.ndarray:
    """Return the values as an array of type `kind`. Floats are rounded; other values never change."""
    is_integer = kind.code in "BbHhIiQq"
    if is_integer and not isinstance(values, np.ndarray):
        # as objects: NumPy makes floats of integers that none of its types can hold, such as -1 and 2^63
        source = np.asarray(values, dtype=object)
        right = all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in source.flat)
    else:
        source = np.asarray(values)
        right = source.dtype.kind in ("b" if kind.name == "bool" else "iu" if is_integer else "iuf")
    if source.size == 0:
        return np.empty(0, kind.dtype())
    if source.ndim != 1:
        raise ValueError("arrays have one dimension")
    if not right:
        raise TypeError(f"not a {kind.name}")
    if is_integer:
        limits = np.iinfo(kind.dtype())
        if int(source.min()) < limits.min or int(source.max()) > limits.max:
            raise OverflowError(f"outside {limits.min} to {limits.max}")
    with np.errstate(over="ignore", invalid="ignore"):
        out = source.astype(kind.dtype())
    if kind.code == "f" and bool(np.any(np.isinf(out) & np.isfinite(source))):
        raise OverflowError("too large for 32 bits")
    return out


def infer_type(value: Any) -> str:
    """Return the type in which a Python or NumPy value is stored, unless one is given.

    Raises TypeError for a value that metadata can't hold, and for an empty list, whose type is unknown.
    """
    if isinstance(value, StringArray):
        return "[string]"
    if isinstance(value, str | bytes | bool | np.bool_):
        return "string" if isinstance(value, str | bytes) else "bool"
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        name = "bool" if value.dtype.kind == "b" else f"{value.dtype.kind}{8 * value.dtype.itemsize}"
        if name not in BY_NAME:
            raise TypeError(f"metadata has no type for {value.dtype}")
        return f"[{name}]" if value.ndim else name
    if isinstance(value, int):
        return _integer_type((value,), ("u32", "i32", "u64", "i64"))
    if isinstance(value, float):
        return _float_type((value,))
    if isinstance(value, Sequence | np.ndarray) and len(value):
        return f"[{_element_type(value)}]"
    raise TypeError(
        "an empty list needs its type: Typed([], '[string]')"
        if isinstance(value, Sequence)
        else f"metadata has no type for {type(value).__name__}"
    )


def _element_type(values: Sequence[Any] | np.ndarray) -> str:
    if all(isinstance(v, str | bytes) for v in values):
        return "string"
    if all(isinstance(v, bool | np.bool_) for v in values):
        return "bool"
    if not any(isinstance(v, bool | np.bool_) for v in values):
        if all(isinstance(v, int | np.integer) for v in values):
            return _integer_type(values, ("i32", "u32", "i64", "u64"))
        if all(isinstance(v, int | float | np.integer | np.floating) for v in values):
            return _float_type(values)
    raise TypeError("a list needs elements of one type: numbers, bools or strings")


def _integer_type(values: Sequence[int] | np.ndarray, candidates: Sequence[str]) -> str:
    low, high = int(min(values)), int(max(values))
    for name in candidates:
        limits = np.iinfo(BY_NAME[name].dtype())
        if limits.min <= low and high <= limits.max:
            return name
    raise TypeError("the integer has more than 64 bits")


def _float_type(values: Sequence[float] | np.ndarray) -> str:
    with np.errstate(over="ignore"):
        wide = np.asarray(values, np.float64)
        overflow = np.isinf(wide.astype(np.float32)) & np.isfinite(wide)
    return "f64" if overflow.any() else "f32"
