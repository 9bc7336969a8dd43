"""The planned executor against float32 arithmetic on the same weights: no further off than llama.cpp is.

A few positions, where two continuations are about as likely, make up half of a mean divergence. So a mean
comes with its standard error, and two of them are what chance is allowed. It matters for Q8_0 alone, where
both programs round activations alike: over 5,120 positions its ratio was 1.04 ± 0.15, that of medians 1.005.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from llmlite.bench.quality import Divergence
from tests.conformance.divergence_table import FILE_TYPES, chunks, measure

pytestmark = [pytest.mark.conformance, pytest.mark.slow]
N_CHUNKS = 3
MOST = 1.05  # times llama.cpp's divergence
FLOOR = 1e-6  # nats: what the order of a float32 sum is worth


@pytest.fixture(scope="module")
def texts(tales: Path) -> list[list[int]]:
    return chunks(tales, N_CHUNKS)


def n_changed(found: Divergence) -> int:
    """At how many positions another token is the likeliest."""
    return round((1 - found.top1) * found.n_tokens)


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_quantized_file_is_computed_no_worse_than_by_llama_cpp(
    file_type: str, tales: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    row = measure(tales, tmp_path, file_type, texts)
    theirs = row.llama_cpp
    shown = [f"{found.kl:.1e} ± {found.kl_error:.0e}" for found in (row.prompt, row.decoding, theirs)]
    print(f"{file_type}: KL of a prompt {shown[0]}, decoding {shown[1]}, llama.cpp {shown[2]}")
    for ours in (row.prompt, row.decoding):
        assert ours.kl <= max(MOST * theirs.kl + 2 * math.hypot(ours.kl_error, theirs.kl_error), FLOOR)
        # which near tie falls which way is chance: counts may differ by what chance allows them
        chance = 3 * math.sqrt(n_changed(ours) + n_changed(theirs))
        assert n_changed(ours) <= n_changed(theirs) + chance
