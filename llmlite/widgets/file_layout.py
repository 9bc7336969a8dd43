"""A map of a GGUF file's bytes: click a byte to see its field, and choose a field to see its bytes."""

from __future__ import annotations

import os
from html import escape

import ipywidgets

from llmlite import gguf, plots
from llmlite.lessons.file_layout import ByteMap
from llmlite.resources import model_path
from llmlite.widgets.base import HEADING_WIDTH, Explorer, View, buttons, row

COLUMNS, ROWS = 16, 8
# Half transparent, so that the page's own text colour stays readable over them, in light and dark themes.
COLOURS = {
    "header": "rgba(0,114,178,.45)",
    "metadata": "rgba(230,159,0,.45)",
    "tensor list": "rgba(0,158,115,.45)",
    "padding": "rgba(128,128,128,.25)",
    "tensor data": "rgba(204,121,167,.45)",
}
STYLE = """<style>
.llmlite-bytes .jupyter-button {width: 2.6em; min-width: 0; padding: 0; margin: 1px; height: 1.9em;
  line-height: 1.9em; font-family: monospace; color: var(--jp-content-font-color1, inherit)}
.llmlite-bytes .llmlite-mine {outline: 2px solid currentColor; font-weight: bold}
</style>"""


def byte_map(source: gguf.GGUFFile | str | os.PathLike[str]) -> ByteMapExplorer:
    """Return a map of a file's bytes.

    Args:
        source: an open file, the path of a file, or the name of a bundled model.

    Raises:
        GGUFError, OSError: the file can't be read.
        LlmliteError: the file is one of several shards.
    """
    file = source if isinstance(source, gguf.GGUFFile) else gguf.read(model_path(source))
    return ByteMapExplorer(ByteMap(file))


class ByteMapExplorer(Explorer):
    """The bytes of a file in hexadecimal, each as a button, and the field that the chosen byte belongs to.

    Controls choose a byte, a field or a region.

    Attributes:
        map: the fields of the file.
        field: the number of the chosen field.
        top: the offset of the first byte that is shown.
    """

    static_summary = "The first fields as a table (it needs no running kernel)"

    def __init__(self, map_: ByteMap) -> None:
        self.map = map_
        self.field, self.top, self._silent = 0, 0, False
        self.region = buttons([(r.name, r.name) for r in map_.regions], "Region")
        self.back = ipywidgets.Button(description="◀ previous field", layout={"width": "auto"})
        self.forward = ipywidgets.Button(description="next field ▶", layout={"width": "auto"})
        self.offset = ipywidgets.BoundedIntText(
            min=0,
            max=len(map_.data) - 1,
            description="Byte",
            layout={"width": "16em"},
            style={"description_width": HEADING_WIDTH},
        )
        self.cells = [ipywidgets.Button() for _ in range(ROWS * COLUMNS)]
        for i, cell in enumerate(self.cells):
            cell.on_click(lambda _button, i=i: self.choose_byte(self.top + i))
        lines = [ipywidgets.HBox(self.cells[i * COLUMNS : (i + 1) * COLUMNS]) for i in range(ROWS)]
        self.grid = View(lines)
        self.grid.add_class("llmlite-bytes")
        self.view = ipywidgets.HTML()
        super().__init__(
            [
                self.region,
                row("Step", [self.back, self.forward, self.offset]),
                ipywidgets.HTML(STYLE),
                self.grid,
                self.view,
            ]
        )
        self.back.on_click(lambda _button: self.choose_field(self.field - 1))
        self.forward.on_click(lambda _button: self.choose_field(self.field + 1))
        self.region.observe(lambda change: self._from_control(self.choose_region, change["new"]), "value")
        self.offset.observe(lambda change: self._from_control(self.choose_byte, change["new"]), "value")
        self.redraw()

    def choose_field(self, i: int) -> None:
        """Show field number `i`, or the nearest field if there is no such number."""
        self.field = min(max(i, 0), len(self.map.fields) - 1)
        start = self.map.fields[self.field].offset
        if not self.top <= start < self.top + len(self.cells):
            self.top = start // COLUMNS * COLUMNS
        self.redraw()

    def choose_byte(self, offset: int) -> None:
        """Show the field that contains the byte at `offset`, or the nearest byte of the file."""
        offset = min(max(offset, 0), len(self.map.data) - 1)
        if not self.top <= offset < self.top + len(self.cells):
            self.top = offset // COLUMNS * COLUMNS
        self.field = self.map.at(offset)
        self.redraw(offset)

    def choose_region(self, name: str) -> None:
        """Show the first field of a region."""
        region = next(r for r in self.map.regions if r.name == name)
        self.choose_field(self.map.at(region.offset))

    def redraw(self, byte: int | None = None) -> None:
        chosen = self.map.fields[self.field]
        self._silent = True  # set the controls without calling their callbacks
        self.region.value = self.map.region(self.field)
        self.offset.value = chosen.offset if byte is None else byte
        self._silent = False
        for i, cell in enumerate(self.cells):
            self._draw_byte(cell, self.top + i)
        self.view.value = self._field_html()
        first, n = chosen.offset, chosen.n_bytes
        where = f"byte {first}" if n == 1 else f"bytes {first} to {first + n - 1}"
        self.say(f"{chosen.name}, {where}, type {chosen.type}: {self.map.value(self.field)}.")

    def _draw_byte(self, cell: ipywidgets.Button, offset: int) -> None:
        with cell.hold_sync():
            if offset >= len(self.map.data):
                cell.description, cell.tooltip, cell.disabled = "", "beyond the end of the file", True
                return
            i = self.map.at(offset)
            cell.disabled = False
            cell.description = f"{self.map.data[offset]:02x}"
            cell.tooltip = f"byte {offset}: {self.map.fields[i].name}"
            (cell.add_class if i == self.field else cell.remove_class)("llmlite-mine")
        cell.style.button_color = COLOURS[self.map.region(i)]

    def _field_html(self) -> str:
        field, raw = self.map.fields[self.field], self.map.raw(self.field, 48)
        letters = "".join(chr(b) if 32 <= b < 127 else "·" for b in raw)
        more = " …" if field.n_bytes > len(raw) else ""
        rows = {
            "field": f"{self.field} of {len(self.map.fields)}: {field.name}",
            "offset": f"{field.offset} (0x{field.offset:x}), {field.n_bytes} bytes",
            "bytes": raw.hex(" ") + more,
            "as text": letters + more,
            "type": field.type,
            "value": self.map.value(self.field),
            "read by": self.map.how_to_read(self.field),
        }
        cells = "".join(
            f"<tr><th style='text-align:left;padding-right:1em;vertical-align:top'>{name}</th>"
            f"<td style='text-align:left;font-family:monospace;word-break:break-all'>{escape(text)}</td></tr>"
            for name, text in rows.items()
        )
        return f"<table>{cells}</table>"

    def static_view(self) -> plots.Table:
        """Return the first fields as a table."""
        return plots.file_layout.first_fields(self.map)

    def _from_control(self, choose: object, value: object) -> None:
        if not self._silent:
            choose(value)  # type: ignore[operator]
