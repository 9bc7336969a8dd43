"""Ranges of characters as sequences of ranges of bytes."""

from __future__ import annotations

from collections.abc import Iterator

ByteRanges = tuple[tuple[int, int], ...]  # the range of the first byte, of the second, ...
LAST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)


def byte_ranges(low: int, high: int) -> Iterator[ByteRanges]:
    """Cut a range of code points into parts in which each byte has an independent range.

        U+0080 … U+07FF  ->  C2-DF 80-BF

    Source: RFC 3629, section 4; the method is Russ Cox's, "Regular Expression Matching in the Wild".
    """
    for last in LAST_OF_LENGTH:
        if low <= last < high:
            yield from byte_ranges(low, last)
            yield from byte_ranges(last + 1, high)
            return
    if high <= 0x7F:
        yield ((low, high),)
        return
    for n in (
        18,
        12,
        6,
    ):  # if the bits above the lowest n differ, a part must have all values of the lowest n
        rest = (1 << n) - 1
        if low >> n != high >> n:
            if low & rest:
                yield from byte_ranges(low, low | rest)
                yield from byte_ranges((low | rest) + 1, high)
                return
            if high & rest != rest:
                yield from byte_ranges(low, (high & ~rest) - 1)
                yield from byte_ranges(high & ~rest, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode()))
