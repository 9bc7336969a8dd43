"""The types of metadata values in a GGUF file, and the walk over an array of strings.

The package gives each type a short name: "u32", "f32", "bool", "string"; an array of u32 is "[u32]".
Source: the GGUF specification in ggml's docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

ARRAY = 9  # the id of arrays; the type and the number of their elements follow


class ValueType(NamedTuple):
    """One type of metadata values.

    Attributes:
        id: its number in the file.
        name: its short name.
        code: its code for `struct`; empty for strings and arrays.
        size: bytes of a value; 0 for strings and arrays, whose sizes vary.
    """

    id: int
    name: str
    code: str
    size: int

    def dtype(self, byte_order: str = "little") -> np.dtype:
        """Return the NumPy type of an array of such values in a byte order, "little" or "big"."""
        return np.dtype(("<" if byte_order == "little" else ">") + self.code)


VALUE_TYPES = (
    ValueType(0, "u8", "B", 1),
    ValueType(1, "i8", "b", 1),
    ValueType(2, "u16", "H", 2),
    ValueType(3, "i16", "h", 2),
    ValueType(4, "u32", "I", 4),
    ValueType(5, "i32", "i", 4),
    ValueType(6, "f32", "f", 4),
    ValueType(7, "bool", "?", 1),
    ValueType(8, "string", "", 0),
    ValueType(9, "array", "", 0),
    ValueType(10, "u64", "Q", 8),
    ValueType(11, "i64", "q", 8),
    ValueType(12, "f64", "d", 8),
)
BY_NAME = {t.name: t for t in VALUE_TYPES}
STRING = BY_NAME["string"]
BOOL = BY_NAME["bool"]


class Typed(NamedTuple):
    """A metadata value with its exact type in the file.

    Attributes:
        value: the value.
        type: "u8" … "f64", "bool", "string", or an array of one of them: "[i32]", "[string]".
    """

    value: Any
    type: str


def decode(raw: bytes | memoryview) -> str:
    """Decode a string of a file. Bytes that aren't UTF-8 become lone surrogates, which `write` restores."""
    return str(raw, "utf-8", "surrogateescape")


class StringArray(Sequence[str]):
    """An array of strings that stays in its file; each string is decoded on first use.

    Equal to any sequence of the same strings. `list(array)` decodes them all: about 25 ms for 128k tokens.
    """

    __slots__ = ("_byte_order", "_data", "_starts", "_width")

    def __init__(self, data: memoryview, starts: np.ndarray, width: int, byte_order: str) -> None:
        # string i is data[starts[i] : starts[i + 1] - width]: the next string's length lies in between
        self._data, self._starts, self._width, self._byte_order = data, starts, width, byte_order

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return decode(self.raw(index))

    def __iter__(self) -> Iterator[str]:
        width = self._width
        for first in range(0, len(self), 4096):  # a batch as Python ints and bytes, which are fast to slice
            starts = self._starts[first : first + 4097]
            base = int(starts[0])
            raw = bytes(self._data[base : int(starts[-1]) - width])
            begin = 0
            for end in (starts[1:] - base).tolist():
                yield raw[begin : end - width].decode("utf-8", "surrogateescape")
                begin = end

    def raw(self, index: int) -> bytes:
        """Return the bytes of string `index`, undecoded.

        Raises:
            IndexError: the array has no such string.
        """
        start, n_bytes = self.span(index)
        return bytes(self._data[start : start + n_bytes])

    def span(self, index: int) -> tuple[int, int]:
        """Return the offset of string `index` in the file, and its number of bytes.

        Raises:
            IndexError: the array has no such string.
        """
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"string {index} of an array of {n}")
        index %= n
        start = int(self._starts[index])
        return start, int(self._starts[index + 1]) - self._width - start

    def stored(self, width: int, byte_order: str) -> memoryview | None:
        """Return the bytes of the whole array in the file, if its lengths are stored in the given way.

        Args:
            width: bytes of a length, 4 or 8.
            byte_order: "little" or "big".

        Returns:
            A view of the bytes; None if the array's lengths have another width or byte order.
        """
        if (width, byte_order) != (self._width, self._byte_order):
            return None
        return self._data[int(self._starts[0]) - width : int(self._starts[-1]) - width]

    def tolist(self) -> list[str]:
        """Return all strings, decoded."""
        return list(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment] # equal to lists, which have none

    def __repr__(self) -> str:
        first = ", ".join(repr(text) for text in self[:3])
        return f"<StringArray of {len(self)}: {first}{', …' if len(self) > 3 else ''}>"


class StringOutOfBoundsError(Exception):
    """Internal: a string of an array reaches past the end of the file.

    Args:
        index: the index of the string in the array.
        offset: the offset of the string's length in the file.
        length: the length as stored; None if the length itself reaches past the end.
    """

    def __init__(self, index: int, offset: int, length: int | None) -> None:
        super().__init__(index, offset, length)
        self.index, self.offset, self.length = index, offset, length


CHUNK = 1 << 18  # bytes searched at once: few enough to fit in the second-level cache with their masks
STEPS = 32  # strings walked one by one before whole runs are tried again


def string_starts(data: np.ndarray, start: int, n: int, width: int, byte_order: str) -> np.ndarray:
    """Find the offsets of n consecutive strings, each stored after its length.

    The end of one string is the place of the next length, so this is a walk. But a length below 256 is easy
    to find: width - 1 zero bytes beside one other byte. A whole run of such places is checked at once: it is
    part of the walk if each place follows from the one before. The rest is walked step by step.

    Args:
        data: uint8 (n_bytes,): the bytes of the file.
        start: the offset of the first length.
        n: number of strings.
        width: bytes of a length, 4 or 8.
        byte_order: "little" or "big".

    Returns:
        int64 (n + 1,): the offset of each string, then the offset that a further string would have.

    Raises:
        StringOutOfBoundsError: a string reaches past the end of `data`; the error names the first one.
    """
    starts = np.empty(n + 1, np.int64)
    little = byte_order == "little"
    length_at = struct.Struct(("<" if little else ">") + ("Q" if width == 8 else "I")).unpack_from
    view, end = memoryview(data), len(data)
    taken, at = 0, start
    base, places, breaks = at, np.empty(0, np.int64), np.empty(0, np.int64)
    searched = at if n > STEPS else end  # `places` is complete up to this offset
    while taken < n:
        if at >= searched and searched < end:
            base, searched = at, min(at + CHUNK, end)
            places, breaks = _chains(data[base:searched], width, byte_order)
        run = _run_from(places, breaks, at - base, n - taken)
        starts[taken : taken + len(run)] = run + (base + width)
        if len(run):
            taken += len(run)
            at = int(starts[taken - 1])
            at += int(data[at - (width if little else 1)])
        for i in range(taken, min(taken + STEPS, n)):
            if at + width > end:
                raise StringOutOfBoundsError(i, at, None)
            (length,) = length_at(view, at)
            starts[i] = at + width
            if length > end - at - width:
                raise StringOutOfBoundsError(i, at, length)
            at += width + length
            taken = i + 1
    starts[n] = at + width
    return starts


def _chains(data: np.ndarray, width: int, byte_order: str) -> tuple[np.ndarray, np.ndarray]:
    """Find the places that look like a length below 256.

    Args:
        data: uint8 (n_bytes,): the bytes to search.
        width: bytes of a length, 4 or 8.
        byte_order: "little" or "big".

    Returns:
        int64 (n_places,): the places. int64 (n_breaks,): the indices of places whose string doesn't end where
        the next place is.
    """
    zero = data == 0
    zero2 = zero[:-1] & zero[1:]
    if width == 8:  # seven in a row: 2, then 4, then 3 more on top of 4
        zero4 = zero2[:-2] & zero2[2:]
        zeros = zero4[:-3] & zero4[3:]
    else:  # three in a row
        zeros = zero2[:-1] & zero2[1:]
    places = np.flatnonzero(zeros)
    if byte_order == "little":  # LL 00 00 00 00 00 00 00
        places = places[places > 0] - 1
        lengths = data[places]
    else:  # 00 00 00 00 00 00 00 LL
        places = places[places + width <= len(data)]
        lengths = data[places + (width - 1)]
    breaks = np.flatnonzero(places[:-1] + lengths[:-1] + width != places[1:])
    return places, breaks


def _run_from(places: np.ndarray, breaks: np.ndarray, at: int, most: int) -> np.ndarray:
    """Return the run of places that begins at `at`, each at the end of the string before.

    Args:
        places: int64 (n_places,): the places, from `_chains`.
        breaks: int64 (n_breaks,): the indices of the breaks, from `_chains`.
        at: the first place of the run; if it isn't among `places`, the run is empty.
        most: the largest number of places to return.
    """
    first = int(np.searchsorted(places, at))
    if first >= len(places) - 1 or places[first] != at:
        return places[:0]
    next_break = int(np.searchsorted(breaks, first))
    # the last place of a chain is left to a single step, because its string may reach past the chunk
    last = int(breaks[next_break]) if next_break < len(breaks) else len(places) - 1
    return places[first : min(last, first + most)]
