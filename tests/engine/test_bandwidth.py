"""Reading memory as plain bytes and as weights: sizes, files that are mapped, and types without a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from llmlite.engine.bandwidth import WIDTH, ReadBandwidth
from llmlite.engine.families import FAMILIES
from llmlite.quants import TYPES, by_name

SIZE = 2**20


@pytest.mark.parametrize("mapped", [False, True])
def test_a_block_of_weights_has_whole_rows_and_is_read_by_the_types_kernel(mapped: bool) -> None:
    for name in ("Q8_0", "Q4_K"):
        weights = by_name(name)
        found = ReadBandwidth(1, SIZE, mapped=mapped, weights=weights)
        row = WIDTH // weights.block_size * weights.type_size
        assert SIZE - row < found.n_bytes <= SIZE and found.n_bytes % row == 0
        kernels = {op.kernel for op in found._plan.ops if op.kernel}
        assert FAMILIES[weights.id].matvec in kernels and np.isfinite(found.seconds())


@pytest.mark.parametrize("mapped", [False, True])
def test_plain_memory_is_read_in_whole_units(mapped: bool) -> None:
    found = ReadBandwidth(1, SIZE + 255, mapped=mapped)
    assert found.n_bytes == SIZE and found.seconds() > 0


def test_a_type_without_a_kernel_is_read_as_plain_memory() -> None:
    without = next(each for each in TYPES.values() if each.id not in FAMILIES)
    found = ReadBandwidth(1, SIZE, weights=without)
    assert {op.name for op in found._plan.ops} == {"read_all"}
