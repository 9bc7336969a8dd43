"""The logit lens: the model's prediction after each layer, in a grid of buttons."""

from __future__ import annotations

from html import escape

import ipywidgets

from llmlite import plots
from llmlite.lessons.lens import lens
from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.plots import choosing as figures
from llmlite.widgets.base import HEADING_WIDTH, TextExplorer, View, text_field

N_SHOWN = 18  # positions; the last ones of a longer text
N_TOP = 5
# Sizes in terms of the page's own, so that the grid grows with large type.
TYPE, LINE = "var(--jp-widgets-font-size, 13px)", "var(--jp-widgets-inline-height, 28px)"
SMALL = f"calc({TYPE} - 1px)"
WIDE = f"calc(4.5 * {TYPE})"
CELL = {"width": WIDE, "min_width": WIDE, "height": LINE, "margin": "1px", "padding": "0"}
NAME = {"width": "6em", "min_width": "6em", "height": LINE, "margin": "1px", "padding": "0"}


def logit_lens(model: Model, text: str) -> LogitLens:
    """Return a widget that shows the logit lens of a text. The model runs once for each text.

    Args:
        model: the model to run.
        text: the text to begin with; the learner can change it.

    Raises:
        The errors of `Model.trace`.
    """
    return LogitLens(model, text)


class LogitLens(TextExplorer):
    """A grid with a row for each stage and a column for each position.

    A cell has the likeliest next token and is shaded by its probability. A click on a cell shows the N_TOP
    likeliest tokens. The two sliders choose a cell as a click does.

    Attributes:
        lens: the predictions after each stage, from `lessons.lens.lens`.
        start: the first position that is shown.
        cells: (stage, position) -> button.
    """

    static_summary = "The grid as a picture (it needs no running kernel)"
    kept = "The grid still shows the previous text."

    def __init__(self, model: Model, text: str) -> None:
        self.model = model
        style = {"description_width": HEADING_WIDTH}
        self.text = text_field(text)
        self.stage = ipywidgets.IntSlider(description="Layer", min=0, max=1, style=style)
        self.position = ipywidgets.IntSlider(description="Position", min=0, max=1, style=style)
        self.grid = View(layout={"overflow": "auto"})
        self.detail = ipywidgets.HTML()
        self._read(text)
        super().__init__([self.text, self.stage, self.position, self.grid, self.detail])
        self.reread_on(self.text)
        self.redraw_on((self.stage, self.position))

    def choose(self, stage: int, position: int) -> None:
        """Choose the cell of a stage and a position, as a click on it does."""
        self.stage.value, self.position.value = stage, position

    def redraw(self) -> None:
        chosen = self.stage.value, self.position.value
        for place, cell in self.cells.items():
            cell.layout.border = "2px solid currentColor" if place == chosen else "1px solid transparent"
        self.detail.value = self._top()
        self.say(self._words())

    def static_view(self) -> plots.Picture:
        """Return the grid as a picture."""
        texts = {token: self._text(token) for token in {*self.lens.ids, *self.lens.best.ravel().tolist()}}
        return figures.lens_grid(self.lens, texts, start=self.start)

    def _read(self, text: str) -> None:
        self.lens = lens(self.model, text)
        n_stages, n = self.lens.best.shape
        self.start = max(0, n - N_SHOWN)
        self.position.min = 0  # otherwise the new maximum might be below the old minimum
        self.position.max, self.position.min = n - 1, self.start
        self.stage.max = n_stages - 1
        self.position.value, self.stage.value = n - 1, n_stages - 1
        self._build()

    def _build(self) -> None:
        """Build a row of buttons for each stage, the last layer on top, and a row with the text's tokens."""
        positions = range(self.start, len(self.lens.ids))
        self.cells = {}
        rows = []
        for stage in reversed(range(len(self.lens.stages))):
            for position in positions:
                self.cells[stage, position] = self._cell(stage, position)
            row = [self.cells[stage, position] for position in positions]
            rows.append(_row(self.lens.stages[stage], row))
        read = [_text_cell(self._text(self.lens.ids[position])) for position in positions]
        self.grid.children = [*rows, _row("read so far", read)]

    def _cell(self, stage: int, position: int) -> ipywidgets.Button:
        token, p = int(self.lens.best[stage, position]), float(self.lens.confidence[stage, position])
        cell = ipywidgets.Button(
            description=self._text(token),
            tooltip=f"{self.lens.stages[stage]}, position {position}: {self._text(token)} with {p:.0%}",
            layout=CELL,
        )
        cell.style.button_color = f"rgba(0,114,178,{0.6 * p:.2f})"
        cell.style.font_size = SMALL
        cell.on_click(lambda _button: self.choose(stage, position))
        return cell

    def _top(self) -> str:
        found = self.lens.top(self.stage.value, self.position.value, N_TOP)
        rows = "".join(
            f"<tr><td style='text-align:left'><b>{escape(self._text(token))}</b></td>"
            f"<td style='text-align:left'><span style='display:inline-block;height:.8em;width:{12 * p:.2f}em;"
            f"background:rgba(0,114,178,.7)'></span> {p:.1%}</td></tr>"
            for token, p in found
        )
        return f"<table style='margin:6px 0'>{rows}</table>"

    def _words(self) -> str:
        stage, position = self.stage.value, self.position.value
        found = self.lens
        read = "".join(self._text(token) for token in found.ids[max(0, position - 3) : position + 1])
        token, p = found.top(stage, position, 1)[0]
        text = f"After {found.stages[stage]}" if stage else "Straight from the embedding"
        text += f", having read …{read}, the model would say {self._text(token)} (probability {p:.0%})."
        final, settled = int(found.best[-1, position]), found.settled(position)
        text += f" In the end it says {self._text(final)}"
        text += f", which is on top from {found.stages[settled]} on."
        if position + 1 < len(found.ids):
            text += f" The text goes on with {self._text(found.ids[position + 1])}."
        return text

    def _text(self, token: int) -> str:
        return visible(self.model.tokenizer, int(token))


def _row(name: str, cells: list[ipywidgets.Widget]) -> ipywidgets.HBox:
    heading = ipywidgets.HTML(escape(name), layout=NAME)
    return ipywidgets.HBox([heading, *cells], layout={"width": "max-content"})


def _text_cell(text: str) -> ipywidgets.HTML:
    style = f"text-align:center;font-size:{SMALL};font-weight:bold;overflow:hidden;text-overflow:ellipsis"
    style += f";white-space:nowrap;width:calc({WIDE} - 2px)"
    whole = escape(text, quote=True)
    return ipywidgets.HTML(f"<div style='{style}' title='{whole}'>{whole}</div>", layout=CELL)
