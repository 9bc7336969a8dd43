"""One bit of a model: copies differ in that bit alone, and which bits matter is as the lesson says."""

from __future__ import annotations

import numpy as np
import pytest

import llmlite as ll
from llmlite.lessons import flip
from llmlite.quants import TYPES, QuantType
from llmlite.quants.block import Block
from llmlite.quants.tensor import QuantTensor

BLOCK_TYPES = [t for t in TYPES.values() if t.block_size > 1]


@pytest.fixture(scope="module")
def lab() -> flip.FlipLab:
    return flip.FlipLab(ll.load("tales:Q4_0"))


def small(type_name: str = "Q4_0", n_rows: int = 2) -> QuantTensor:
    values = np.random.default_rng(0).standard_normal((n_rows, 512)).astype(np.float32)
    return QuantTensor.quantize(values, type_name, "w", np.ones(512, np.float32))


def test_a_flipped_tensor_differs_in_one_bit_and_the_original_stays() -> None:
    tensor = small()
    before = np.array(tensor.blocks)
    changed = flip.flipped(tensor, 3, [17])
    assert np.unpackbits(changed.blocks ^ before).sum() == 1
    assert changed.blocks[3, 2] == before[3, 2] ^ 2
    assert np.array_equal(tensor.blocks, before)


def test_flipping_twice_gives_the_original() -> None:
    raw = small().block(1).bytes
    assert np.array_equal(flip.flipped_bytes(flip.flipped_bytes(raw, [5, 90]), [5, 90]), raw)


def test_a_bit_or_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bit 144 asked, the block's bits are 0\.\.143"):
        flip.flipped(small(), 0, [144])
    with pytest.raises(IndexError, match="block 99"):
        flip.flipped(small(), 99, [0])


@pytest.mark.parametrize("type", BLOCK_TYPES, ids=lambda t: t.name)
def test_every_bit_of_every_block_type_has_a_meaning(type: QuantType) -> None:
    block = Block(type, np.zeros(type.type_size, np.uint8))
    meanings = [flip.meaning(block, bit) for bit in range(8 * len(block.bytes))]
    assert all(text.count(":") == 1 and not text.startswith(":") for text in meanings)
    assert set(block.fields) <= set(flip.FIELDS)


def test_the_roles_of_a_half_precision_scale_are_ieee_754s() -> None:
    block = small().block(0)
    roles = [flip.role(block.type, block.fields["d"], bit) for bit in range(16)]
    assert roles[15] == "sign" and roles[14] == "exponent, bit 4" and roles[10] == "exponent, bit 0"
    assert roles[9] == "fraction, bit 9" and roles[0] == "fraction, bit 0"
    scale = float(block.fields["d"].value)
    assert float(flip.flipped(small(), 0, [15]).block(0).fields["d"].value) == -scale
    assert float(flip.flipped(small(), 0, [10]).block(0).fields["d"].value) in (2 * scale, scale / 2)


def test_a_bfloat16_has_its_own_roles() -> None:
    tensor = QuantTensor.quantize(np.ones((1, 4), np.float32), "BF16", "w")
    field = tensor.block(0).fields["value"]
    assert flip.role(tensor.type, field, 15) == "sign"
    assert flip.role(tensor.type, field, 14) == "exponent, bit 7"
    assert flip.role(tensor.type, field, 6) == "fraction, bit 6"


def test_a_changed_model_shares_everything_but_one_tensor(lab: flip.FlipLab) -> None:
    tensors = lab.model.gguf.tensors
    model = lab.changed(flip.flipped(tensors[flip.TENSOR], 0, [14]))
    assert model.gguf.tensors[flip.TENSOR] is not tensors[flip.TENSOR]
    others = [name for name in tensors if name != flip.TENSOR]
    assert all(np.shares_memory(model.gguf.tensors[n].blocks, tensors[n].blocks) for n in others)
    assert lab.model.gguf.tensors[flip.TENSOR] is tensors[flip.TENSOR]


def test_a_tensor_of_another_name_is_refused(lab: flip.FlipLab) -> None:
    with pytest.raises(KeyError, match="w"):
        lab.model.gguf.replacing(small())


def test_no_flip_no_divergence(lab: flip.FlipLab) -> None:
    assert lab._kl(lab.changed(flip.flipped(lab.model.gguf.tensors[flip.TENSOR], 0, []))) == 0


@pytest.mark.parametrize("block", [0, 1, 100, 1000])
def test_a_nibbles_low_bit_does_not_matter(lab: flip.FlipLab, block: int) -> None:
    assert lab.kl(flip.TENSOR, block, 16) < 1e-6


@pytest.mark.parametrize("block", [0, 1, 100, 1000])
def test_the_scales_highest_exponent_bit_matters(lab: flip.FlipLab, block: int) -> None:
    assert lab.kl(flip.TENSOR, block, 14) > 5


def test_the_tale_stays_with_the_one_and_goes_with_the_other(lab: flip.FlipLab) -> None:
    quiet, loud = lab.flip(bit=16), lab.flip(bit=14)
    assert quiet.tale_after == quiet.tale_before == lab.tale
    assert quiet.n_changed == 1 and quiet.n_same == quiet.n_tokens
    assert loud.n_changed > 25 and loud.n_same < 5
    assert loud.tale_before == lab.tale != loud.tale_after
    assert "exponent, bit 4" in str(loud) and "KL" in str(loud)


def test_a_scale_of_infinity_ends_in_a_number_not_in_an_error() -> None:
    lab = flip.FlipLab(ll.load("tales:Q4_0"), n_tokens=4)
    tensor = lab.model.gguf.tensors[flip.TENSOR]
    scale = int(tensor.block(0).bytes[:2].view("<u2")[0])
    infinite = [bit for bit in range(10, 15) if not scale >> bit & 1]
    model = lab.changed(flip.flipped(tensor, 0, infinite))
    assert lab._kl(model) == np.inf
    assert lab._tell(model.gguf) == ""


def test_n_same_counts_up_to_the_first_difference() -> None:
    assert flip.n_same([1, 2, 3], [1, 2, 4]) == 2
    assert flip.n_same([1, 2], [1, 2, 3]) == 2
    assert flip.n_same([], [1]) == 0
