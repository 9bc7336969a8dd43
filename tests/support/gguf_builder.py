"""Build GGUF files byte by byte, right or wrong, and remember where each field went."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

VALUE_TYPES = "u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64".split()
CODES = dict(zip(VALUE_TYPES, ["B", "b", "H", "h", "I", "i", "f", "B", "", "", "Q", "q", "d"]))


@dataclass
class GGUFBuilder:
    """Build a file; contradictory values are written as given.

    Attributes:
        at: the offset of each field, once `build` has run: "magic", "version", "n_tensors", "n_kv"; for key i
            "kv[i].length", ".key", ".type", ".element_type", ".count", ".value"; for tensor i
            "tensor[i].length", ".name", ".n_dims", ".dims[j]", ".type", ".offset", ".data"; "data" (the
            section) and "end".
    """

    version: int = 3
    byte_order: str = "little"
    magic: bytes = b"GGUF"
    alignment: int = 32
    n_kv: int | None = None
    n_tensors: int | None = None
    at: dict[str, int] = field(default_factory=dict)
    entries: list[tuple] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)

    def pack(self, code: str, *values: Any) -> bytes:
        """Return numbers as bytes in the file's byte order."""
        return struct.pack(("<" if self.byte_order == "little" else ">") + code, *values)

    def length(self, n: int) -> bytes:
        """Return a length or count as 32 bits in version 1, else 64; values that don't fit are cut."""
        return self.pack("I", n & 0xFFFFFFFF) if self.version == 1 else self.pack("Q", n & (1 << 64) - 1)

    def string(self, raw: str | bytes, length: int | None = None) -> bytes:
        """Return a string after its length, or after the length given."""
        raw = raw.encode() if isinstance(raw, str) else raw
        return self.length(len(raw) if length is None else length) + raw

    def kv(
        self,
        key: str | bytes,
        type_name: str | int,
        value: bytes | int | float | str,
        key_length: int | None = None,
    ) -> GGUFBuilder:
        """Add a key; a `value` of bytes is written unchanged."""
        if isinstance(value, str):
            value = self.string(value)
        elif not isinstance(value, bytes):
            value = self.pack(CODES[str(type_name)], value)
        self.entries.append((key, type_name, None, value, key_length))
        return self

    def array(
        self, key: str, element: str | int, values: list | bytes, count: int | None = None
    ) -> GGUFBuilder:
        """Add an array; `values` of bytes are written unchanged, and need a `count`."""
        n = len(values) if count is None else count
        if not isinstance(values, bytes):
            values = b"".join(
                self.string(v) if element == "string" else self.pack(CODES[str(element)], v) for v in values
            )
        self.entries.append((key, "array", (element, n), values, None))
        return self

    def tensor(
        self,
        name: str | bytes = "weight",
        dims: tuple[int, ...] = (32,),
        type_id: int = 0,
        n_bytes: int = 128,
        **overrides: Any,
    ) -> GGUFBuilder:
        """Add a tensor, by default F32 (32,); `overrides` are offset, n_dims, name_length and data."""
        self.tensors.append(
            {"name": name, "dims": dims, "type_id": type_id, "n_bytes": n_bytes, "offset": None} | overrides
        )
        return self

    def build(self, cut: int = 0, extra: bytes = b"") -> bytes:
        """Return the file without its last `cut` bytes, with the bytes `extra` after its end."""
        out = bytearray()

        def put(name: str, raw: bytes) -> None:
            self.at[name] = len(out)
            out.extend(raw)

        put("magic", self.magic)
        put("version", self.pack("I", self.version))
        code = "I" if self.version == 1 else "q"
        put("n_tensors", self.pack(code, len(self.tensors) if self.n_tensors is None else self.n_tensors))
        put("n_kv", self.pack(code, len(self.entries) if self.n_kv is None else self.n_kv))
        for i, entry in enumerate(self.entries):
            self._put_entry(put, f"kv[{i}]", *entry)
        offset = 0
        for i, tensor in enumerate(self.tensors):
            tensor = tensor | ({"offset": offset} if tensor["offset"] is None else {})
            self._put_tensor(put, f"tensor[{i}]", **tensor)
            offset += -(-tensor["n_bytes"] // self.alignment) * self.alignment
        self._put_data(put, out)
        self.at["end"] = len(out)
        return bytes(out[: len(out) - cut] + extra)

    def _put_entry(self, put: Any, where: str, key: Any, kind: Any, array: Any, value: bytes, n: Any) -> None:
        raw = key.encode() if isinstance(key, str) else key
        put(f"{where}.length", self.length(len(raw) if n is None else n))
        put(f"{where}.key", raw)
        put(f"{where}.type", self.pack("i", VALUE_TYPES.index(kind) if isinstance(kind, str) else kind))
        if array is not None:
            element, count = array
            number = VALUE_TYPES.index(element) if isinstance(element, str) else element
            put(f"{where}.element_type", self.pack("i", number))
            put(f"{where}.count", self.length(count))
        put(f"{where}.value", value)

    def _put_tensor(
        self, put: Any, where: str, name: Any, dims: Any, type_id: int, offset: int, **other: Any
    ) -> None:
        raw = name.encode() if isinstance(name, str) else name
        put(f"{where}.length", self.length(other.get("name_length", len(raw))))
        put(f"{where}.name", raw)
        put(f"{where}.n_dims", self.pack("I", other.get("n_dims", len(dims))))
        for j, dim in enumerate(dims):
            put(f"{where}.dims[{j}]", self.pack("I" if self.version == 1 else "q", dim))
        put(f"{where}.type", self.pack("i", type_id))
        put(f"{where}.offset", self.pack("Q", offset & (1 << 64) - 1))

    def _put_data(self, put: Any, out: bytearray) -> None:
        if self.tensors:
            put("padding", bytes(-len(out) % self.alignment))
        put("data", b"")
        for i, tensor in enumerate(self.tensors):
            data = tensor.get("data", bytes(k % 251 for k in range(tensor["n_bytes"])))
            put(f"tensor[{i}].data", data)
            out.extend(bytes(-len(data) % self.alignment))
