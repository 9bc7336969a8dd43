"""Parse the head of a GGUF file: everything before the tensors' data, checked against the file's size.

No number in the file is trusted: every length and count is compared with the remaining bytes before it is
used, so work and memory are bounded by the size of the file. Only the places of values and strings are found
here; they are decoded later.
"""

from __future__ import annotations

import math
import struct
import warnings
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from llmlite.errors import GGUFError, GGUFWarning
from llmlite.gguf.values import (
    ARRAY,
    BOOL,
    STRING,
    VALUE_TYPES,
    StringOutOfBoundsError,
    ValueType,
    string_starts,
)
from llmlite.quants import REMOVED, TYPES, QuantType

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 24
MAX_COUNT = 1 << 16  # of keys and of tensors: models have thousands at most, and each takes time and memory
MAX_NAME = 63  # bytes of a tensor's name: ggml's buffer has 64, with a final NUL
MAX_DIMS = 4
LEGACY_MAGICS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}
CUT_OFF = "the file is cut off; copy or download it again"
DAMAGED = "the file is damaged"


@dataclass(slots=True)
class MetadataEntry:
    """One key, and the place of its value. Offsets are in bytes from the start of the file.

    Attributes:
        key, key_offset: the key, and the offset of its text.
        type: the value's type, or the type of an array's elements.
        n: number of an array's elements; None for a single value.
        offset, end: offset of the value (of a string's length, of an array's first element), and of its end.
        starts: for an array of strings, the offset of each string's bytes (see string_starts).
    """

    key: str
    key_offset: int
    type: ValueType
    n: int | None
    offset: int
    end: int = 0
    starts: np.ndarray | None = None

    @property
    def type_name(self) -> str:
        """The type as a short name: "u32", "[string]"."""
        return self.type.name if self.n is None else f"[{self.type.name}]"


@dataclass(slots=True)
class TensorInfo:
    """The head's entry of one tensor.

    Attributes:
        name_offset, end: offsets in the file of the name's text and of the entry's end.
        dims: the dimensions in the file's order, fastest first.
        offset, n_bytes: offset of the tensor's data from the start of all tensors' data, and its size.
    """

    name: str
    name_offset: int
    dims: tuple[int, ...]
    type: QuantType
    offset: int
    n_bytes: int
    end: int = 0


@dataclass(slots=True)
class Head:
    """The head of one file.

    Attributes:
        width: bytes of a length or a count: 4 in version 1, 8 later.
        alignment, data_offset: alignment and offset of the tensors' data, in bytes.
        end: offset of the head's end.
    """

    version: int
    byte_order: str
    width: int
    entries: dict[str, MetadataEntry] = field(default_factory=dict)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    alignment: int = DEFAULT_ALIGNMENT
    end: int = 0
    data_offset: int = 0


class Cursor:
    """A position in the file, which never moves past its end."""

    def __init__(self, data: np.ndarray, path: str) -> None:
        self.data = data
        self.path = path
        self.at = 0
        self.size = len(data)
        self.byte_order = "little"
        self.width = 8

    def fail(
        self, field: str, offset: int | None, expected: str, got: object, hint: str | None = None
    ) -> NoReturn:
        raise GGUFError(self.path, field, offset, expected, got, hint)

    @property
    def left(self) -> int:
        """Bytes until the end of the file."""
        return self.size - self.at

    def need(self, n_bytes: int, field: str) -> None:
        if n_bytes > self.left:
            self.fail(field, self.at, f"{n_bytes} bytes", f"{self.left} until the end of the file", CUT_OFF)

    def number(self, code: str, field: str) -> int:
        """Read an integer, given its struct code."""
        order = "<" if self.byte_order == "little" else ">"
        n_bytes = struct.calcsize(order + code)
        self.need(n_bytes, field)
        (value,) = struct.unpack_from(order + code, self.data, self.at)
        self.at += n_bytes
        return value

    def length(self, field: str) -> int:
        """Read a length, or the number of an array's elements: 32 bits in version 1, 64 bits later."""
        return self.number("Q" if self.width == 8 else "I", field)

    def skip(self, n_bytes: int, field: str, offset: int) -> int:
        """Skip n_bytes, a length that is stored at `offset`; return the offset where they begin."""
        if n_bytes > self.left:
            self.fail(
                field,
                offset,
                f"at most {self.left} bytes, the rest of the file",
                n_bytes,
                "the file is damaged or cut off",
            )
        start = self.at
        self.at += n_bytes
        return start

    def name(self, what: str) -> tuple[str, int]:
        """Read a key or a tensor's name, UTF-8 and not empty; return it and its offset."""
        offset = self.at
        length = self.length(f"{what}: length")
        start = self.skip(length, f"{what}: length", offset)
        raw = self.data[start : self.at].tobytes()
        if not raw:
            self.fail(what, offset, "a name", "an empty string", DAMAGED)
        try:
            return raw.decode(), start
        except UnicodeDecodeError as error:
            self.fail(what, start + error.start, "UTF-8", f"byte 0x{raw[error.start]:02x}", DAMAGED)


def parse(data: np.ndarray, path: str) -> Head:
    """Parse the head of a file, data (file size,) uint8. path: the file's name in errors.

    Raises GGUFError if the file is malformed. Warns with GGUFWarning of bytes after the last tensor.
    """
    cursor = Cursor(data, path)
    head = _header(cursor)
    n_tensors, n_kv = _counts(cursor)
    for i in range(n_kv):
        entry = _entry(cursor, i)
        if entry.key in head.entries:
            cursor.fail(shown(entry.key), entry.key_offset, "each key once", "another one", DAMAGED)
        head.entries[entry.key] = entry
    head.alignment = _alignment(cursor, head)
    for i in range(n_tensors):
        tensor = _tensor_info(cursor, i)
        if tensor.name in head.tensors:
            cursor.fail(shown(tensor.name), tensor.name_offset, "each tensor once", "another one", DAMAGED)
        head.tensors[tensor.name] = tensor
    head.end = cursor.at
    head.data_offset = padded(cursor.at, head.alignment)
    _check_data(cursor, head)
    return head


def _header(cursor: Cursor) -> Head:
    """Read the magic and the version, which also shows the byte order."""
    if not cursor.size:
        cursor.fail("magic", 0, "a GGUF file", "an empty file", CUT_OFF)
    magic = cursor.data[:4].tobytes()
    if magic in LEGACY_MAGICS:
        cursor.fail(
            "magic",
            0,
            "GGUF",
            f"{LEGACY_MAGICS[magic]}, a format older than GGUF",
            "convert the file with llmlite convert",
        )
    if magic != MAGIC[: len(magic)]:
        cursor.fail("magic", 0, "the letters GGUF", repr(magic)[1:], "this is not a GGUF file")
    cursor.need(4, "magic")
    cursor.at = 4
    version = cursor.number("I", "version")
    if version and version & 0xFFFF == 0:  # a small number with its bytes in the other order
        cursor.byte_order = "big"
        version = int.from_bytes(cursor.data[4:8].tobytes(), "big")
    if version not in VERSIONS:
        newer = version > max(VERSIONS)
        cursor.fail(
            "version",
            4,
            "version 1, 2 or 3",
            version,
            "a newer llmlite may read it" if newer and version < 256 else DAMAGED,
        )
    cursor.width = 4 if version == 1 else 8
    return Head(version, cursor.byte_order, cursor.width)


def _counts(cursor: Cursor) -> tuple[int, int]:
    """Read n_tensors and n_kv. Both must fit in the file, and be at most MAX_COUNT."""
    code, width = ("I", 4) if cursor.width == 4 else ("q", 8)
    # smallest tensor: a name of one letter, n_dims, a dimension, type, offset; smallest key: name, type, byte
    smallest = {"n_tensors": width + 1 + 4 + width + 4 + 8, "n_kv": width + 1 + 4 + 1}
    offsets = (cursor.at, cursor.at + width)
    counts = tuple(cursor.number(code, what) for what in smallest)
    for (what, n_bytes), offset, count in zip(smallest.items(), offsets, counts):
        most = min(cursor.left // n_bytes, MAX_COUNT)
        if not 0 <= count <= most:
            why = "llmlite's limit" if most == MAX_COUNT else "which fit in the file"
            expected = f"0 to {most}, {why}"
            cursor.fail(what, offset, expected, count, "the file is damaged or cut off")
    return counts[0], counts[1]


def _entry(cursor: Cursor, i: int) -> MetadataEntry:
    """Read one key, and find its value's place."""
    key, key_offset = cursor.name(f"key {i}")
    name = shown(key)
    kind = _value_type(cursor, f"{name}: type")
    if kind.id == ARRAY:
        return _array(cursor, key, key_offset)
    entry = MetadataEntry(key, key_offset, kind, None, cursor.at)
    if kind is STRING:
        length = cursor.length(f"{name}: length")
        cursor.skip(length, f"{name}: length", entry.offset)
    else:
        cursor.need(kind.size, name)
        cursor.at += kind.size
        _check_bools(cursor, entry)
    entry.end = cursor.at
    return entry


def _value_type(cursor: Cursor, field: str) -> ValueType:
    offset = cursor.at
    number = cursor.number("i", field)
    if not 0 <= number < len(VALUE_TYPES):
        cursor.fail(field, offset, f"a value type, 0 to {len(VALUE_TYPES) - 1}", number, DAMAGED)
    return VALUE_TYPES[number]


def _array(cursor: Cursor, key: str, key_offset: int) -> MetadataEntry:
    """Read an array's element type and count, and skip its elements, which must be in the file."""
    name = shown(key)
    offset = cursor.at
    kind = _value_type(cursor, f"{name}: element type")
    if kind.id == ARRAY:
        cursor.fail(
            f"{name}: element type",
            offset,
            "numbers, bools or strings",
            "an array of arrays",
            "GGUF's arrays don't nest",
        )
    offset = cursor.at
    n = cursor.length(f"{name}: count")
    most = cursor.left // (kind.size or cursor.width)
    if n > most:
        cursor.fail(
            f"{name}: count",
            offset,
            f"at most {most}, which fit in the file",
            n,
            "the file is damaged or cut off",
        )
    entry = MetadataEntry(key, key_offset, kind, n, cursor.at)
    if kind is STRING:
        entry.starts = _strings(cursor, name, n)
        cursor.at = int(entry.starts[-1]) - cursor.width
    else:
        cursor.at += n * kind.size
        _check_bools(cursor, entry)
    entry.end = cursor.at
    return entry


def _strings(cursor: Cursor, name: str, n: int) -> np.ndarray:
    try:
        return string_starts(cursor.data, cursor.at, n, cursor.width, cursor.byte_order)
    except StringOutOfBoundsError as error:
        where = f"{name}[{error.index}]: length"
        left = cursor.size - error.offset
        if error.length is None:
            got = f"{left} until the end of the file"
            cursor.fail(where, error.offset, f"{cursor.width} bytes", got, CUT_OFF)
        expected = f"at most {left - cursor.width} bytes, the rest of the file"
        cursor.fail(where, error.offset, expected, error.length, "the file is damaged or cut off")


def _check_bools(cursor: Cursor, entry: MetadataEntry) -> None:
    """Check that each bool of an entry is a byte 0 or 1."""
    if entry.type is not BOOL:
        return
    values = cursor.data[entry.offset : cursor.at]
    if values.size and values.max() > 1:
        at = int(np.argmax(values > 1))
        name = shown(entry.key) + ("" if entry.n is None else f"[{at}]")
        cursor.fail(name, entry.offset + at, "a bool, 0 or 1", int(values[at]), DAMAGED)


def _alignment(cursor: Cursor, head: Head) -> int:
    """Return general.alignment, which must be a u32 and a power of two, or the default."""
    entry = head.entries.get("general.alignment")
    if entry is None:
        return DEFAULT_ALIGNMENT
    if entry.type_name != "u32":
        cursor.fail(entry.key, entry.offset, "a u32", f"type {entry.type_name}", DAMAGED)
    value = int.from_bytes(cursor.data[entry.offset : entry.end].tobytes(), head.byte_order)  # type: ignore[arg-type]
    if value & (value - 1) or not 0 < value <= MAX_ALIGNMENT:
        cursor.fail(entry.key, entry.offset, f"a power of two, at most {MAX_ALIGNMENT}", value, DAMAGED)
    return value


def _tensor_info(cursor: Cursor, i: int) -> TensorInfo:
    """Read the name, dimensions, type and offset of one tensor."""
    length_offset = cursor.at
    name, name_offset = cursor.name(f"tensor {i}: name")
    n_bytes = cursor.at - name_offset
    if n_bytes > MAX_NAME:
        cursor.fail(f"tensor {i}: name", length_offset, f"at most {MAX_NAME} bytes", n_bytes, DAMAGED)
    if "\0" in name:
        cursor.fail(f"tensor {i}: name", name_offset, "a name without NUL", ascii(name), DAMAGED)
    dims, dims_offset = _dims(cursor, shown(name))
    type_offset = cursor.at
    type_id = cursor.number("i", f"{shown(name)}: type")
    kind = TYPES.get(type_id)
    if kind is None:
        _refuse_type(cursor, name, type_offset, type_id)
    if dims[0] % kind.block_size:
        expected = f"a multiple of the {kind.name} block, {kind.block_size}"
        cursor.fail(f"{shown(name)}: dims[0]", dims_offset, expected, dims[0], DAMAGED)
    offset = cursor.number("Q", f"{shown(name)}: offset")
    n_bytes = math.prod(dims) // kind.block_size * kind.type_size
    return TensorInfo(name, name_offset, dims, kind, offset, n_bytes, cursor.at)


def _dims(cursor: Cursor, name: str) -> tuple[tuple[int, ...], int]:
    """Read the dimensions, each at least 1, with a product below 2^63; return them and their offset."""
    offset = cursor.at
    n_dims = cursor.number("I", f"{name}: n_dims")
    if not 1 <= n_dims <= MAX_DIMS:
        cursor.fail(f"{name}: n_dims", offset, f"1 to {MAX_DIMS}", n_dims, DAMAGED)
    dims_offset = cursor.at
    product = 1
    dims = []
    for i in range(n_dims):
        offset = cursor.at
        dim = cursor.number("I" if cursor.width == 4 else "q", f"{name}: dims[{i}]")
        if dim < 1:
            cursor.fail(f"{name}: dims[{i}]", offset, "at least 1", dim, DAMAGED)
        product *= dim
        if product >= 1 << 63:
            cursor.fail(f"{name}: dims[{i}]", offset, "fewer than 2^63 elements", f"{product}", DAMAGED)
        dims.append(dim)
    return tuple(dims), dims_offset


def _refuse_type(cursor: Cursor, name: str, offset: int, type_id: int) -> NoReturn:
    field = f"{shown(name)}: type"
    if type_id in REMOVED:
        cursor.fail(
            field,
            offset,
            "a tensor type that llmlite reads",
            f"type {type_id}, {REMOVED[type_id]}",
            "the type was removed from GGML; quantize the model again from its original",
        )
    known = ", ".join(kind.name for kind in TYPES.values())
    cursor.fail(field, offset, "a tensor type that llmlite reads", f"type {type_id}", f"it reads {known}")


def _check_data(cursor: Cursor, head: Head) -> None:
    """Check that the tensors' data is in the file's order, inside the file, with only padding in between."""
    expected = 0
    for tensor in head.tensors.values():
        name, offset_at = shown(tensor.name), tensor.end - 8
        if tensor.offset % head.alignment:
            cursor.fail(
                f"{name}: offset",
                offset_at,
                f"a multiple of the alignment, {head.alignment}",
                tensor.offset,
                DAMAGED,
            )
        if tensor.offset != expected:
            kind = "they overlap" if tensor.offset < expected else "there is a gap"
            hint = f"tensors follow one another without gaps; here {kind}"
            where = f"{expected}, the end of the previous tensor"
            cursor.fail(f"{name}: offset", offset_at, where, tensor.offset, hint)
        left = cursor.size - head.data_offset - tensor.offset
        if tensor.n_bytes > left:
            cursor.fail(
                f"{name}: data",
                head.data_offset + tensor.offset,
                f"{tensor.n_bytes} bytes",
                f"{max(0, left)} until the end of the file",
                CUT_OFF,
            )
        expected = padded(tensor.offset + tensor.n_bytes, head.alignment)
    end = head.data_offset + expected
    if cursor.size > end:
        warnings.warn(
            f"{cursor.path}: {cursor.size - end} bytes follow the last tensor, from byte {end}",
            GGUFWarning,
            stacklevel=5,
        )


def padded(n: int, alignment: int) -> int:
    """Round n up to a multiple of the alignment."""
    return -(-n // alignment) * alignment


def shown(name: str) -> str:
    """Return a key or name in a form that is safe to print: without control characters, 80 at most."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= 80 else text[:79] + "…"
