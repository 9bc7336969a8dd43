"""The blocks that ONNX Runtime gets hold the file's numbers, by its operator's definition."""

from __future__ import annotations

import numpy as np
import pytest

from llmlite.bench.backends import ort_genai_graph as ort
from llmlite.quants.tensor import QuantTensor


@pytest.mark.parametrize("type_name", sorted(ort.BITS))
def test_packed_blocks_are_the_files_own_numbers(type_name: str) -> None:
    values = np.random.default_rng(0).standard_normal((6, 96), np.float32)
    tensor = QuantTensor.quantize(values, type_name, "w")
    codes, scales = ort.packed(tensor)
    bits = ort.BITS[type_name]
    assert codes.shape == (6, 3, ort.BLOCK * bits // 8) and scales.shape == (6, 3)
    # MatMulNBits: value = scale * (code - 2^(bits-1)), the earlier of two codes in the lower half of a byte
    wide = codes.astype(int)
    if bits == 4:
        wide = np.stack([wide & 15, wide >> 4], axis=-1).reshape(6, 3, ort.BLOCK)
    found = scales[..., None] * (wide - 2 ** (bits - 1)).astype(np.float32)
    assert np.array_equal(found.reshape(6, 96), tensor.dequantize())


def test_what_is_quantized_anew_is_told() -> None:
    values = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    tensors = {
        "blk.0.ffn_up.weight": QuantTensor.quantize(values, "F16", "up"),
        "blk.0.ffn_down.weight": QuantTensor.quantize(values, "Q4_0", "down"),
    }
    graph = ort._Graph(None, tensors)  # type: ignore[arg-type]
    assert graph.stored("blk.0.ffn_down.weight") is tensors["blk.0.ffn_down.weight"] and not graph.anew
    assert graph.stored("blk.0.ffn_up.weight").type.name == "Q4_0" and graph.anew == {"F16"}
