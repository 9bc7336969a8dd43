"""The bits of one block of a quantized tensor: flip a bit, and see which weights change and how far."""

from __future__ import annotations

from html import escape

import ipywidgets
import numpy as np

from llmlite import plots
from llmlite.lessons import flip
from llmlite.plots import blocks as block_plots
from llmlite.quants.block import Block
from llmlite.quants.tensor import QuantTensor
from llmlite.widgets.base import Explorer, buttons, picture_html, row

SHORT_ROLES = {"sign": "s", "exponent": "e", "fraction": "f"}
SHOWN_BITS = 16


def block_explorer(
    tensor: QuantTensor, block: int = 0, *, original: QuantTensor | None = None
) -> BlockExplorer:
    """Return an explorer of one block's bits.

    Args:
        tensor: the tensor, of any type.
        block: the number of the block to begin with.
        original: the tensor from which `tensor` was quantized, for the quantization error.

    Raises:
        IndexError: the tensor has no such block.
        ValueError: `original` has another shape.
    """
    return BlockExplorer(tensor, block, original=original)


class BlockExplorer(Explorer):
    """The bits of a block as buttons, with a picture of the block's weights under them.

    Controls choose the block, one of its fields, and a part of the field.

    Attributes:
        tensor: the tensor.
        original: the tensor from which `tensor` was quantized, or None.
        stored: the block as the file has it.
        changed: the block with the flipped bits.
        flipped: the numbers of the bits that are flipped now.
        picture: the picture that is shown now.
    """

    static_summary = "The block as a picture (it needs no running kernel)"

    def __init__(self, tensor: QuantTensor, block: int = 0, *, original: QuantTensor | None = None) -> None:
        if original is not None and original.shape != tensor.shape:
            raise ValueError(f"original: expected the shape {tensor.shape}, got {original.shape}")
        self.tensor, self.original = tensor, original
        self.stored = self.changed = tensor.block(block)
        self.flipped: set[int] = set()
        self._drawn: tuple[int, frozenset[int]] | None = None
        wide = {"width": "190px"}
        self.block = ipywidgets.BoundedIntText(
            value=block, min=0, max=len(tensor.blocks) - 1, description="Block", layout=wide
        )
        self.field = buttons([(name, name) for name in self.stored.fields], "Field", tooltips=self._about())
        self.place = ipywidgets.BoundedIntText(value=0, min=0, max=0, description="Part", layout=wide)
        self.back = ipywidgets.Button(
            description="Undo all flips", tooltip="Set every bit to its value in the file"
        )
        self.names = [ipywidgets.HTML() for _ in range(SHOWN_BITS)]
        self.bits = [
            ipywidgets.Button(layout={"width": "34px", "margin": "0 1px"}) for _ in range(SHOWN_BITS)
        ]
        self.cells = [
            ipywidgets.VBox([name, bit], layout={"align_items": "center"})
            for name, bit in zip(self.names, self.bits)
        ]
        self.facts, self.figure = ipywidgets.HTML(), ipywidgets.HTML()
        places = ipywidgets.HBox([self.block, self.place, self.back], layout={"flex_flow": "row wrap"})
        super().__init__([self.field, places, row("Bits", self.cells), self.facts, self.figure])
        for place, button in enumerate(self.bits):
            button.on_click(lambda _button, place=place: self.flip(self._shown()[place]))
        self.back.on_click(lambda _button: self.undo())
        self.block.observe(self._to_block, names="value")
        self.field.observe(self._to_field, names="value")
        self._to_field()
        self.redraw_on((self.place,))

    def flip(self, bit: int) -> None:
        """Change one bit, or change it back.

        Raises:
            ValueError: the bit is outside the block.
        """
        self.changed = Block(self.tensor.type, flip.flipped_bytes(self.stored.bytes, self.flipped ^ {bit}))
        self.flipped ^= {bit}
        self.redraw()

    def undo(self) -> None:
        """Set every bit to its value in the file."""
        self.flipped.clear()
        self.changed = self.stored
        self.redraw()

    def redraw(self) -> None:
        self._draw_bits()
        drawn = (self.block.value, frozenset(self.flipped))
        if drawn != self._drawn:  # the picture is the same for all fields of a block
            self._drawn = drawn
            self.picture = block_plots.weights(
                self.stored.weights,
                self.changed.weights,
                original=self._original_weights(),
                heading=f"{self.tensor.name}, block {self.block.value}, {self.tensor.type.name}",
                theme="page",
            )
            self.figure.value = picture_html(self.picture)
        facts = self._facts()
        self.facts.value = "<br>".join(escape(line) for line in facts)
        self.say(" ".join([*self._flips(), *facts, self.picture.alt]))

    def static_view(self) -> plots.Picture:
        """Return a picture of the block's weights, without flipped bits."""
        return block_plots.weights(
            self.stored.weights,
            original=self._original_weights(),
            heading=f"{self.tensor.name}, block {self.block.value}, {self.tensor.type.name}",
        )

    def _to_block(self, _change: object = None) -> None:
        self.stored = self.changed = self.tensor.block(self.block.value)
        self.flipped.clear()
        self.redraw()

    def _to_field(self, _change: object = None) -> None:
        field = self.stored.fields[self.field.value]
        self.place.max = field.n_bits // self._width() - 1
        self.place.value = 0
        self.place.disabled = self.place.max == 0
        self.redraw()

    def _width(self) -> int:
        """Return how many bits are shown at a time: 16 for a 16-bit float, else 8."""
        field = self.stored.fields[self.field.value]
        whole = flip.number_format(self.tensor.type, field) in ("float16", "bfloat16")
        return 16 if whole else 8

    def _shown(self) -> list[int]:
        """Return the numbers of the bits that are shown now, the highest first, as numbers are written."""
        field = self.stored.fields[self.field.value]
        first = field.bit_offset + self.place.value * self._width()
        return list(range(first + self._width() - 1, first - 1, -1))

    def _draw_bits(self) -> None:
        field = self.stored.fields[self.field.value]
        shown = self._shown()
        for place, cell in enumerate(self.cells):
            if place >= len(shown):
                cell.layout.display = "none"
                continue
            bit, button = shown[place], self.bits[place]
            cell.layout.display = "flex"
            role = flip.role(self.tensor.type, field, bit)
            short = next((s for name, s in SHORT_ROLES.items() if role.startswith(name)), str(bit % 8))
            value = int(self.changed.bytes[bit // 8]) >> (bit % 8) & 1
            self.names[place].value = f'<span aria-hidden="true">{short}</span>'
            button.description = str(value)
            button.button_style = "warning" if bit in self.flipped else ""
            button.tooltip = f"bit {bit}, {flip.meaning(self.stored, bit)}: is {value}; press to flip"

    def _flips(self) -> list[str]:
        if not self.flipped:
            return ["No bit is flipped."]
        named = [f"bit {bit} ({flip.meaning(self.stored, bit)})" for bit in sorted(self.flipped)]
        return [f"Flipped: {'; '.join(named)}."]

    def _facts(self) -> list[str]:
        name = self.field.value
        place = self.place.value
        before, after = (_value(block, name, place, self._width()) for block in (self.stored, self.changed))
        value = f"{name} ({flip.FIELDS.get(name, name)}), part {place}: {before}"
        lines = [value + (f", now {after}." if after != before else ".")]
        original = self._original_weights()
        if original is None:
            lines.append(f"RMS distance from the weights as stored: {self._distance(self.stored.weights)}.")
        else:
            lines.append(f"RMS error against the original: {self._distance(original)}.")
        return lines

    def _distance(self, aim: np.ndarray) -> str:
        with np.errstate(all="ignore"):
            errors = [
                float(np.sqrt(np.mean((block.weights.astype(np.float64) - aim) ** 2)))
                for block in (self.stored, self.changed)
            ]
        return f"{errors[0]:.4g}" + (f", now {errors[1]:.4g}" if self.flipped else "")

    def _original_weights(self) -> np.ndarray | None:
        if self.original is None:
            return None
        size = self.tensor.type.block_size
        start = self.block.value * size
        n_columns = self.tensor.n_columns
        line = self.original.dequantize(slice(start // n_columns, start // n_columns + 1)).reshape(-1)
        return line[start % n_columns : start % n_columns + size]

    def _about(self) -> list[str]:
        return [
            f"{flip.FIELDS.get(f.name, f.name)}: {f.n_bits} bits from byte {f.bit_offset // 8}"
            for f in self.stored.fields.values()
        ]


def _value(block: Block, name: str, place: int, width: int) -> str:
    """Return the value of the shown part of a field as text: a float, or bytes in hexadecimal."""
    field = block.fields[name]
    if width == 16 and field.dtype == "float16":
        return f"{float(np.ravel(field.value)[place]):.6g}"
    if field.dtype == "float32":
        return f"{float(np.ravel(field.value)[0]):.6g}"
    first = field.bit_offset // 8 + place * width // 8
    return "0x" + block.bytes[first : first + width // 8][::-1].tobytes().hex().upper()
