"""Flip one bit of a model's weights and see how its text changes.

Only that tensor is copied, and nothing is written to the file.

    flips = FlipLab(ll.load("tales:Q4_0"))
    print(flips.flip("blk.0.ffn_down.weight", block=0, bit=14))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llmlite import gguf
from llmlite.bench.quality import divergence
from llmlite.errors import NumericsError
from llmlite.model import Model
from llmlite.quants.block import Block, BlockField
from llmlite.quants.record import QuantType
from llmlite.quants.tensor import QuantTensor

PROMPT = "Once there was Belinor, a lamplighter. Belinor left the silver watch next to the tent."
N_TOKENS = 40
TENSOR = "blk.0.ffn_down.weight"  # its outputs go to every layer after it

# The meaning of the fields in the block layouts, because their names don't explain themselves.
FIELDS = {
    "d": "the scale",
    "dmin": "the scale of the minimums",
    "m": "the minimum",
    "s": "the sum of the levels, times the scale",
    "e": "the scale, as a power of two",
    "qs": "the levels",
    "ql": "the levels' lower bits",
    "qh": "the levels' upper bits",
    "hmask": "the levels' highest bits",
    "bsums": "the sums of the levels",
    "scales": "the groups' scales",
    "scales_h": "the groups' scales, upper bits",
    "scales_l": "the groups' scales, lower bits",
    "scales_and_signs": "the groups' scales, and signs",
    "signs": "the weights' signs",
    "value": "the weight itself",
}
# float type -> (number of exponent bits, number of fraction bits); the sign bit is above them
FLOATS = {"float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23)}


@dataclass(frozen=True, kw_only=True)
class Flip:
    """The effect of one changed bit.

    Attributes:
        tensor: the name of the changed tensor.
        block: the number of the changed block.
        bit: the number of the changed bit. Bit 0 is the lowest bit of the block's first byte.
        meaning: the bit's meaning in words.
        kl: mean KL divergence from the unchanged model, in nats, over the prompt and the unchanged tale.
        before: float32 (block_size,): the block's weights before the change.
        after: float32 (block_size,): the block's weights after the change.
        tale_before: the tale of the unchanged model, always with the likeliest token.
        tale_after: the tale of the changed model, always with the likeliest token.
        n_same: how many tokens at the beginning of the two tales are the same.
        n_tokens: number of tokens in the unchanged tale.
        n_changed: how many of the block's weights are different after the change.
    """

    tensor: str
    block: int
    bit: int
    meaning: str
    kl: float
    before: np.ndarray
    after: np.ndarray
    tale_before: str
    tale_after: str
    n_same: int
    n_tokens: int

    @property
    def n_changed(self) -> int:
        return int(np.count_nonzero(~(self.before == self.after)))

    def __str__(self) -> str:
        weights = "1 weight" if self.n_changed == 1 else f"{self.n_changed} weights"
        return (
            f"{self.tensor}, block {self.block}, bit {self.bit} ({self.meaning}): {weights} "
            f"moved, KL {self.kl:.2g}, {self.n_same} of {self.n_tokens} tokens as before"
        )


def flipped_bytes(raw: np.ndarray, bits: Iterable[int]) -> np.ndarray:
    """Return a copy of a block's bytes with some bits changed.

    Args:
        raw: uint8 (type_size,): the bytes of the block.
        bits: numbers of the bits to change. Bit 0 is the lowest bit of the first byte.

    Raises:
        ValueError: a bit is outside the block.
    """
    changed = np.array(raw, dtype=np.uint8)
    for bit in bits:
        if not 0 <= bit < 8 * len(changed):
            raise ValueError(f"bit {bit} asked, the block's bits are 0..{8 * len(changed) - 1}")
        changed[bit // 8] ^= np.uint8(1 << (bit % 8))
    return changed


def flipped(tensor: QuantTensor, block: int, bits: Iterable[int]) -> QuantTensor:
    """Return a copy of a tensor with some bits of one block changed.

    Args:
        tensor: the tensor to copy.
        block: the number of the block.
        bits: numbers of the bits to change. Bit 0 is the lowest bit of the block's first byte.

    Raises:
        IndexError: the tensor has no such block.
        ValueError: a bit is outside the block.
    """
    raw = tensor.block(block).bytes
    blocks = np.array(tensor.blocks)
    blocks[block] = flipped_bytes(raw, bits)
    return QuantTensor(tensor.name, tensor.type, tensor.shape, blocks)


def field_at(block: Block, bit: int) -> BlockField:
    """Return the field of a block that a bit belongs to."""
    return next(f for f in block.fields.values() if f.bit_offset <= bit < f.bit_offset + f.n_bits)


def number_format(type: QuantType, field: BlockField) -> str:
    """Return the dtype of a field's numbers as a name; "bfloat16" for BF16, which NumPy doesn't have."""
    return "bfloat16" if type.name == "BF16" else field.dtype


def role(type: QuantType, field: BlockField, bit: int) -> str:
    """Describe a bit within its number: "sign", "exponent, bit 4", "fraction, bit 0", "bit 3".

    Args:
        type: the type of the block.
        field: the field that contains the bit.
        bit: the number of the bit in the block.
    """
    kind = number_format(type, field)
    inside = (bit - field.bit_offset) % (8 * np.dtype(field.dtype).itemsize)
    if kind not in FLOATS:
        if field.name == "qs" and type.name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "IQ4_NL"):
            half = "low" if bit % 8 < 4 else "high"
            return f"{half} nibble, bit {bit % 4}"
        return f"bit {inside}"
    exponent, fraction = FLOATS[kind]
    if inside == exponent + fraction:
        return "sign"
    return f"exponent, bit {inside - fraction}" if inside >= fraction else f"fraction, bit {inside}"


def meaning(block: Block, bit: int) -> str:
    """Describe a bit of a block in words: "the scale: exponent, bit 4"."""
    field = field_at(block, bit)
    kind = number_format(block.type, field)
    what = FIELDS.get(field.name, field.name)
    number = (bit - field.bit_offset) // 8
    where = f", byte {number}" if field.n_bits > 8 and kind not in FLOATS else ""
    return f"{what}{where}: {role(block.type, field, bit)}"


class FlipLab:
    """A model that is compared with copies of itself, each with one bit changed.

    Divergences are measured with the eager executor and float32 keys and values, so that a difference comes
    from the bit and not from another order of additions. Tales are written by the default executor, which is
    faster.

    Attributes:
        model: the unchanged model.
        prompt: the text that the tales continue.
        n_tokens: the largest number of tokens in a tale.
        tale: the text that the unchanged model writes after the prompt.
        ids: the token ids of the prompt and of the tale.
    """

    def __init__(self, model: Model, *, prompt: str = PROMPT, n_tokens: int = N_TOKENS) -> None:
        self.model = Model(model.gguf, kv_dtype="f32", executor="eager")
        self.prompt = prompt
        self.n_tokens = n_tokens
        self.tale = self._tell(self.model.gguf)
        self._written = self.model.tokenizer.encode(self.tale, add_special=False)
        self.ids = [*self.model.tokenizer.encode(prompt), *self._written]
        self._logits = self.model.logits(self.ids)

    def changed(self, tensor: QuantTensor) -> Model:
        """Return the model with one tensor replaced."""
        return Model(self.model.gguf.replacing(tensor), kv_dtype="f32", executor="eager")

    def kl(self, name: str, block: int, bit: int) -> float:
        """Return how far one flipped bit moves the predictions: the mean KL divergence, in nats.

        Args:
            name: the name of the tensor.
            block: the number of the block.
            bit: the number of the bit. Bit 0 is the lowest bit of the block's first byte.

        Raises:
            KeyError: the model has no such tensor.
            IndexError: the tensor has no such block.
            ValueError: the block has no such bit.
        """
        return self._kl(self._with(name, block, bit))

    def flip(self, name: str = TENSOR, block: int = 0, bit: int = 0) -> Flip:
        """Flip one bit and return all its effects. Arguments and errors are those of `kl`."""
        tensor = self.model.gguf.tensors[name]
        model = self._with(name, block, bit)
        before, after = tensor.block(block), model.gguf.tensors[name].block(block)
        with np.errstate(all="ignore"):
            tale = self._tell(model.gguf)
        return Flip(
            tensor=name,
            block=block,
            bit=bit,
            meaning=meaning(before, bit),
            kl=self._kl(model),
            before=before.weights,
            after=after.weights,
            tale_before=self.tale,
            tale_after=tale,
            n_same=n_same(self._written, model.tokenizer.encode(tale, add_special=False)),
            n_tokens=len(self._written),
        )

    def _with(self, name: str, block: int, bit: int) -> Model:
        return self.changed(flipped(self.model.gguf.tensors[name], block, [bit]))

    def _kl(self, model: Model) -> float:
        try:
            with np.errstate(all="ignore"):
                return divergence(model.logits(self.ids), self._logits).kl
        except NumericsError:  # an infinite scale: the model can no longer predict anything
            return float("inf")

    def _tell(self, file: gguf.GGUFFile) -> str:
        """Return the tale that the file's model writes; "" if an infinite scale makes that impossible."""
        try:
            return str(Model(file).generate(self.prompt, max_tokens=self.n_tokens, temperature=0))
        except NumericsError:
            return ""


def n_same(first: Iterable[object], second: Iterable[object]) -> int:
    """Return how many items at the beginning of two sequences are the same."""
    count = 0
    for a, b in zip(first, second):
        if a != b:
            break
        count += 1
    return count
