"""QuantTensor: a view of a file's bits that gives weights where asked."""

from __future__ import annotations

import re

import numpy as np
import pytest

from llmlite import quants
from llmlite.errors import ModelError, UnsupportedError
from llmlite.quants.tensor import SLAB, QuantTensor

EVERY = [t for t in quants.TYPES.values() if t.storable]


def random_tensor(type_name: str, shape: tuple[int, ...], seed: int = 0) -> QuantTensor:
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return QuantTensor.quantize(array, type_name, name="blk.0.ffn_up.weight")


def test_blocks_are_a_view_not_a_copy() -> None:
    buffer = np.zeros((8, 144), np.uint8)
    tensor = QuantTensor("w", quants.by_name("Q4_K"), (4, 512), buffer)
    buffer[3, 5] = 7
    assert tensor.blocks[3, 5] == 7
    assert np.shares_memory(tensor.blocks, buffer)


def test_read_only_blocks_can_be_dequantized() -> None:
    tensor = random_tensor("Q5_K", (4, 512))
    tensor.blocks.flags.writeable = False
    assert tensor.dequantize().flags.writeable


SLICES = [slice(2, 5), slice(None, 3), slice(-2, None), slice(0, 6, 2), slice(4, 2)]


@pytest.mark.parametrize("rows", SLICES, ids=str)
@pytest.mark.parametrize("type_name", ["F32", "F16", "Q4_0", "Q6_K"])
def test_a_slab_of_rows_equals_the_same_rows_of_the_whole(type_name: str, rows: slice) -> None:
    tensor = random_tensor(type_name, (6, 512))
    assert np.array_equal(tensor.dequantize(rows), tensor.dequantize()[rows])


def test_slabs_join_without_a_seam() -> None:
    tensor = random_tensor("Q8_0", (2 * SLAB // 512 + 3, 512))
    whole = tensor.type.dequantize(tensor.blocks).reshape(tensor.shape)
    assert np.array_equal(tensor.dequantize(), whole)


def test_rows_looks_up_in_the_order_asked_with_repeats() -> None:
    tensor = random_tensor("Q4_K", (10, 256))
    assert np.array_equal(tensor.rows([7, 0, 7]), tensor.dequantize()[[7, 0, 7]])
    assert tensor.rows([]).shape == (0, 256)
    assert np.array_equal(tensor.rows(np.array([9])), tensor.dequantize()[9:])


@pytest.mark.parametrize("ids", [[10], [-1], [0, 11]])
def test_rows_outside_the_tensor_are_refused(ids: list[int]) -> None:
    with pytest.raises(IndexError, match=r"blk.0.ffn_up.weight: row ids must be in 0..9"):
        random_tensor("Q4_K", (10, 256)).rows(ids)


def test_stacked_experts_keep_their_shape_and_count_rows_through() -> None:
    tensor = random_tensor("Q4_0", (3, 4, 64))
    assert tensor.shape == tensor.dequantize().shape == (3, 4, 64)
    assert tensor.dims == (64, 4, 3)
    assert tensor.n_rows == 12
    assert np.array_equal(tensor.dequantize(slice(4, 8)), tensor.dequantize()[1])


def test_a_vector_is_one_row() -> None:
    tensor = QuantTensor.quantize(np.arange(5.0), "F32")
    assert tensor.shape == (5,)
    assert tensor.n_rows == 1
    assert np.array_equal(tensor.dequantize(), np.arange(5, dtype=np.float32))


def test_each_expert_is_weighed_by_its_own_importance() -> None:
    array = np.random.default_rng(0).standard_normal((2, 8, 256)).astype(np.float32)
    importance = np.exp(2 * np.random.default_rng(1).standard_normal((2, 256))).astype(np.float32)
    together = QuantTensor.quantize(array, "Q3_K", importance=importance).dequantize()
    for expert in (0, 1):
        alone = QuantTensor.quantize(array[expert], "Q3_K", importance=importance[expert]).dequantize()
        assert np.array_equal(together[expert], alone)


def test_importance_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match=r"importance has shape \(255,\), expected \(256,\): "):
        QuantTensor.quantize(np.zeros((8, 256)), "Q3_K", importance=np.ones(255))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "IQ2_XS", "F16"])
def test_threads_change_nothing(type_name: str) -> None:
    array = np.random.default_rng(0).standard_normal((SLAB // 256 * 2 + 5, 256)).astype(np.float32)[::3]
    steps: list[tuple[int, int]] = []
    one = QuantTensor.quantize(array, type_name)
    many = QuantTensor.quantize(array, type_name, n_threads=3, progress=lambda *step: steps.append(step))
    assert np.array_equal(one.blocks, many.blocks)
    assert steps[-1] == (len(array), len(array))
    assert steps == sorted(steps)


def test_a_tensor_can_be_quantized_from_another_type() -> None:
    half = random_tensor("F16", (6, 256))
    direct = QuantTensor.quantize(half.dequantize(), "Q4_K")
    assert np.array_equal(QuantTensor.quantize(half, "Q4_K").blocks, direct.blocks)


def test_a_row_that_is_not_whole_blocks_is_refused_with_both_numbers() -> None:
    message = "blk.0.attn_q.weight: row of 100 values is not a multiple of the Q4_0 block, 32"
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        QuantTensor.quantize(np.zeros((2, 100)), "Q4_0", name="blk.0.attn_q.weight")
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        QuantTensor("blk.0.attn_q.weight", quants.by_name("Q4_0"), (2, 100), np.zeros((7, 18), np.uint8))


def test_blocks_that_do_not_fit_the_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs blocks \(4, 18\) uint8, got \(5, 18\) uint8"):
        QuantTensor("w", quants.by_name("Q4_0"), (2, 64), np.zeros((5, 18), np.uint8))


def test_repr_tells_type_shape_bits_and_bytes() -> None:
    text = repr(random_tensor("Q4_K", (10, 256)))
    assert text == "QuantTensor('blk.0.ffn_up.weight', Q4_K, 10 × 256, 4.5 bits per weight, 1,440 bytes)"


def test_a_notebook_shows_the_tensor_and_its_first_block() -> None:
    html = random_tensor("Q4_K", (10, 256))._repr_html_()
    for part in ("Q4_K", "10 × 256", "4.5", "1,440", "dmin", "effective scales"):
        assert part in html
    hostile = QuantTensor("<b>&", quants.by_name("F32"), (1,), np.zeros((1, 4), np.uint8))
    assert "<b>&" not in hostile._repr_html_()


# A block under the magnifying glass


@pytest.mark.parametrize("kind", EVERY, ids=lambda t: t.name)
def test_a_block_puts_its_weights_together_from_its_parts(kind: quants.QuantType) -> None:
    raw = kind.quantize(np.random.default_rng(0).standard_normal((1, kind.block_size)).astype(np.float32))
    block = QuantTensor("w", kind, (1, kind.block_size), raw).block(0)
    assert np.array_equal(block.weights, kind.dequantize(raw)[0])
    weights = block.levels.astype(np.float32)
    if block.scales is not None:
        weights = (weights.reshape(len(block.scales), -1) * block.scales[:, None]).ravel()
    if block.minimums is not None:
        weights = (weights.reshape(len(block.minimums), -1) - block.minimums[:, None]).ravel()
    assert np.array_equal(weights, block.weights)


@pytest.mark.parametrize("kind", EVERY, ids=lambda t: t.name)
def test_the_fields_of_a_block_cover_every_bit_once(kind: quants.QuantType) -> None:
    block = QuantTensor("w", kind, (1, kind.block_size), np.zeros((1, kind.type_size), np.uint8)).block(0)
    at = 0
    for field in block.fields.values():
        assert field.bit_offset == at
        at += field.n_bits
    assert at == 8 * kind.type_size


@pytest.mark.parametrize("kind", EVERY, ids=lambda t: t.name)
def test_every_weight_is_spelled_by_bits_outside_the_scales(kind: quants.QuantType) -> None:
    block = QuantTensor("w", kind, (1, kind.block_size), np.zeros((1, kind.type_size), np.uint8)).block(0)
    scales = [block.fields[name] for name in ("d", "dmin", "m", "e") if name in block.fields]
    scale_bits = {bit for f in scales for bit in range(f.bit_offset, f.bit_offset + f.n_bits)}
    for i in range(kind.block_size):
        assert block.bits(i), f"weight {i} has no bits"
        assert not scale_bits & set(block.bits(i))


def test_bits_of_a_weight_are_where_the_format_puts_them() -> None:
    q4_k = random_tensor("Q4_K", (1, 256)).block(0)
    assert q4_k.bits(0) == [128, 129, 130, 131]  # low half of the byte after d, dmin and 12 bytes of scales
    assert q4_k.bits(32) == [132, 133, 134, 135]
    q6_k = random_tensor("Q6_K", (1, 256)).block(0)
    assert q6_k.bits(0) == [0, 1, 2, 3, 1024, 1025]  # four bits in ql, two in qh


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError, match=r"block 10 asked, blocks are 0..9"):
        random_tensor("Q4_K", (10, 256)).block(10)


def test_a_block_prints_bytes_fields_scales_and_weights() -> None:
    text = repr(random_tensor("Q4_K", (1, 256)).block(0))
    assert text.startswith("Q4_K block: 256 weights in 144 bytes")
    assert "dmin (byte 2, 16 bits, float16)" in text
    assert "effective scales" in text
