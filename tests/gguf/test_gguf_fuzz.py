"""Random damage to good files: read, or refused with a GGUFError, nothing else. `fuzz_gguf.py` does more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_gguf import check, run, seeds

GOOD = seeds()[0]


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    counts = run(800, 0, tmp_path)
    assert counts["refused"] > 500 and counts["read"] > 20


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    assert run(20_000, 2, tmp_path).total() == 20_000


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"GGUF")
def test_any_bytes_behind_the_magic_are_read_or_refused(data: bytes) -> None:
    check(data)
    check(b"GGUF\x03\0\0\0" + data)
    check(b"GGUF\0\0\0\x02" + data)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_cut_and_any_overwritten_bytes_are_read_or_refused(draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from(GOOD)))
    at = draw.draw(st.integers(0, len(data)))
    patch = draw.draw(st.binary(max_size=16))
    data[at : at + len(patch)] = patch
    check(bytes(data[: draw.draw(st.integers(0, len(data)))]))
    check(bytes(data))
