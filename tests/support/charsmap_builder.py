"""Build SentencePiece's normalization table: a double array over UTF-8, and the replacements."""

from __future__ import annotations

import struct


def charsmap(replacements: dict[str, str]) -> bytes:
    """Return the table for these replacements; each node takes the first place that is free."""
    keys = {key.encode(): value.encode() for key, value in replacements.items()}
    texts = b"".join(value + b"\0" for value in keys.values())
    starts = dict(zip(keys, _running(len(value) + 1 for value in keys.values())))
    units: dict[int, int] = {0: 0}
    _place(b"", 0, starts, units, set())
    n_units = (max(units) | 255) + 1  # whole blocks, so that no label leads outside the array
    array = struct.pack(f"<{n_units}I", *(units.get(i, 0) for i in range(n_units)))
    return struct.pack("<I", len(array)) + array + texts


def _running(lengths: object) -> list[int]:
    at, found = 0, []
    for length in lengths:  # type: ignore[attr-defined]
        found.append(at)
        at += length
    return found


def _place(
    prefix: bytes, unit: int, starts: dict[bytes, int], units: dict[int, int], bases: set[int]
) -> None:
    """Find an offset at which the places of all children of a node are free; place the whole subtree."""
    labels = sorted({key[len(prefix)] for key in starts if key.startswith(prefix) and key != prefix})
    wanted = [0, *labels] if prefix in starts else labels
    # A label's unit lies at unit ^ offset ^ label; unit 0 is the root's.
    offset = next(
        o
        for o in range(1, 1 << 20)
        if unit ^ o not in bases and all((unit ^ o ^ label) not in units for label in wanted)
    )
    bases.add(unit ^ offset)  # the children of two nodes must not mix
    units[unit] |= offset << 10
    if prefix in starts:
        units[unit] |= 1 << 8
        units[unit ^ offset] = 1 << 31 | starts[prefix]
    for label in labels:
        units[unit ^ offset ^ label] = label
    for label in labels:
        _place(prefix + bytes([label]), unit ^ offset ^ label, starts, units, bases)
