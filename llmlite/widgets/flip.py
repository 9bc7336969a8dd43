"""One bit of a whole model: flip it, and read the text that the model then writes."""

from __future__ import annotations

import ipywidgets

from llmlite import plots
from llmlite.lessons.flip import TENSOR, Flip, FlipLab
from llmlite.model import Model
from llmlite.widgets.base import Explorer, buttons
from llmlite.widgets.texts import beside, marked, panel

# Bits of a Q4_0 block: its float16 scale d is in bits 0..15, and the nibbles follow.
BITS = {
    16: "a nibble's lowest bit",
    19: "a nibble's highest bit",
    9: "scale: highest fraction bit",
    15: "scale: sign",
    10: "scale: lowest exponent bit",
    14: "scale: highest exponent bit",
}


def which_bit(model: Model, tensor: str = TENSOR) -> WhichBit:
    """Return a widget that flips one bit of a Q4_0 tensor, and shows the divergence and the new tale.

    Args:
        model: the model.
        tensor: the name of the tensor.

    Raises:
        KeyError: the model has no such tensor.
        ValueError: the tensor's type isn't Q4_0.
    """
    return WhichBit(model, tensor)


class WhichBit(Explorer):
    """A choice of bit and block, and the tales of the model before and after the change of that bit.

    Attributes:
        lab: the unchanged model, for comparisons.
        tensor: the name of the tensor.
        result: the effect of the chosen flip.
    """

    static_summary = "As a table (it needs no running kernel)"

    def __init__(self, model: Model, tensor: str = TENSOR) -> None:
        record = model.gguf.tensors[tensor]
        if record.type.name != "Q4_0":
            raise ValueError(f"{tensor}: expected Q4_0, got {record.type.name}")
        self.lab, self.tensor = FlipLab(model), tensor
        self.bit = buttons([(name, bit) for bit, name in BITS.items()], "Flip")
        self.block = ipywidgets.BoundedIntText(
            value=0, min=0, max=len(record.blocks) - 1, description="in block", layout={"width": "200px"}
        )
        self.view = ipywidgets.HTML()
        self._known: dict[tuple[int, int], Flip] = {}
        super().__init__([self.bit, self.block, self.view])
        self.redraw_on((self.bit, self.block))

    def redraw(self) -> None:
        self.result = self._flip(self.block.value, self.bit.value)
        after = panel(
            f"One bit changed: KL {self.result.kl:.2g}", marked(self.result.tale_after, self.lab.tale)
        )
        self.view.value = beside(panel("As it was", marked(self.lab.tale, self.lab.tale)), after)
        same = self.result.tale_after == self.result.tale_before
        end = "The tale is the same." if same else "The tale is different."
        self.say(f"{self.result}. {end}")

    def static_view(self) -> plots.Table:
        """Return a table of the divergence that each of the bits causes in block 0."""
        rows = [[name, _size(self._flip(0, bit).kl)] for bit, name in BITS.items()]
        n_bits = 8 * self.lab.model.gguf.tensors[self.tensor].n_bytes
        heading = f"One bit of {n_bits:,} in {self.tensor}, flipped"
        alt = f"{heading}. KL divergence: " + "; ".join(f"{name}: {kl}" for name, kl in rows) + "."
        return plots.Table(heading=heading, columns=["bit", "KL divergence"], rows=rows, alt=alt)

    def _flip(self, block: int, bit: int) -> Flip:
        if (block, bit) not in self._known:
            self._known[block, bit] = self.lab.flip(self.tensor, block, bit)
        return self._known[block, bit]


def _size(kl: float) -> str:
    """Return the size of a divergence in words so coarse that other machines give the same ones."""
    for bound in (1e-7, 1e-3, 1.0, 5.0):
        if kl < bound:
            return f"below {bound:g}"
    return "above 5"
