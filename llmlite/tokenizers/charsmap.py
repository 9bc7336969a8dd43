"""SentencePiece's normalization table: replacements for a text's characters.

`tokenizer.ggml.precompiled_charsmap` holds a double array, which is a trie of UTF-8 bytes, and the
replacements. It is walked once, and converted to a dictionary.

Source: SentencePiece, src/normalizer.cc, and Darts-clone's darts.h. Its units have 32 bits: bits 0-7 are the
label; bit 8 says whether the node has a value; bit 9 scales the offset, bits 10-30; bit 31 marks a value.
"""

from __future__ import annotations

import re

import numpy as np

from llmlite.errors import TokenizerError

_MAX_STEPS = 1_000_000  # bytes of all keys together; Unicode's own normal forms need a twentieth of that
KEY = "tokenizer.ggml.precompiled_charsmap"


class CharsMap:
    """Replacements of characters, the longest match first.

    Args:
        table: the value of `tokenizer.ggml.precompiled_charsmap`.

    Raises:
        TokenizerError: the table is cut off, has an offset outside of it, or has a cycle.
    """

    def __init__(self, table: bytes) -> None:
        self.replacements = _read(table)
        self._longest = max(map(len, self.replacements), default=0)
        self._pattern = _candidates(self.replacements)

    def apply(self, text: str) -> str:
        """Return the text with every match replaced."""
        if self._pattern is None:
            return text
        out: list[str] = []
        end = 0
        found = self._pattern.search(text)
        while found is not None:
            at = found.start()
            # The found character is a match of its own, or the second character of one.
            start, length = at - 1, self._match(text, at - 1) if at > end else 0
            if not length:
                start, length = at, self._match(text, at)
            if length:
                out += (text[end:start], self.replacements[text[start : start + length]])
                end = start + length
            found = self._pattern.search(text, max(end, at + 1))
        out.append(text[end:])
        return "".join(out)

    def _match(self, text: str, start: int) -> int:
        """Return the length of the longest match at a position, 0 if there is none."""
        for length in range(min(self._longest, len(text) - start), 0, -1):
            if text[start : start + length] in self.replacements:
                return length
        return 0


def _candidates(replacements: dict[str, str]) -> re.Pattern[str] | None:
    """Return an expression for every character that is replaced alone or is the second one of a match."""
    codes = sorted({ord(key[len(key) > 1]) for key in replacements})
    if not codes:
        return None
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return re.compile(f"[{''.join(f'{re.escape(chr(a))}-{re.escape(chr(b))}' for a, b in ranges)}]")


def _read(table: bytes) -> dict[str, str]:
    """Return text -> replacement, read from SentencePiece's form."""
    n_bytes = int.from_bytes(table[:4], "little")
    if len(table) < 8 or n_bytes % 4 or not 4 <= n_bytes < len(table) - 4:
        raise TokenizerError.at(KEY, "a length, units of 4 bytes and replacements", f"{len(table)} bytes")
    units = np.frombuffer(table, "<u4", n_bytes // 4, 4).astype(np.int64)
    texts = table[4 + n_bytes :]
    offsets = (units >> 10) << ((units & 0x200) >> 6)
    # A unit at index p with label c is a child of the node whose children start at p ^ c.
    is_value = units >> 31 == 1
    places = np.arange(len(units))
    labels = units & 0xFF
    inner = np.flatnonzero(~is_value & (labels != 0))
    order = inner[np.argsort(inner ^ labels[inner], kind="stable")]
    starts = places[order] ^ labels[order]
    children: dict[int, list[int]] = {}
    for start, place in zip(starts.tolist(), order.tolist()):
        children.setdefault(start, []).append(place)

    found: dict[str, str] = {}
    offset_of, has_value = offsets.tolist(), (units >> 8 & 1).tolist()
    # Equal endings share their units, so several paths may lead to one. A valid table has no cycle.
    n_steps = 0
    waiting: list[tuple[int, bytes]] = [(offset_of[0], b"")]
    while waiting:
        start, key = waiting.pop()
        for place in children.get(start, ()):
            n_steps += 1
            if n_steps > _MAX_STEPS:
                raise TokenizerError.at(KEY, f"a table of at most {_MAX_STEPS} steps", "a cycle in it")
            spelled = key + bytes([labels[place]])
            below = place ^ offset_of[place]
            if has_value[place]:
                found.update([_entry(units, texts, below, spelled)])
            waiting.append((below, spelled))
    return found


def _entry(units: np.ndarray, texts: bytes, place: int, key: bytes) -> tuple[str, str]:
    """Return one key and its replacement, whose text ends at a zero byte."""
    at = int(units[place]) & 0x7FFFFFFF if place < len(units) else len(texts)
    end = texts.find(b"\0", at)
    if at >= len(texts) or end < 0:
        raise TokenizerError.at(f"{KEY}, unit {place}", f"a text within {len(texts)} bytes", at)
    return key.decode("utf-8", "surrogateescape"), texts[at:end].decode("utf-8", "surrogateescape")
