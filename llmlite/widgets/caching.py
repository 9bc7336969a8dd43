"""The cache of keys and values, which fills token by token."""

from __future__ import annotations

import ipywidgets

from llmlite import plots
from llmlite.lessons.caching import Filling, cache_bytes, filling
from llmlite.model import Model
from llmlite.widgets.base import HEADING_WIDTH, TextExplorer, buttons, text_field

ITEMSIZE = {"F16": 2, "F32": 4}
N_SHOWN = 32  # positions; of a longer text, the first ones


def cache_grid(model: Model, text: str) -> CacheGrid:
    """Return a widget that shows the cache of a text. The model runs once for each text.

    Args:
        model: the model to run.
        text: the text to begin with; the learner can change it.

    Raises:
        UnsupportedError: no layer of the model keeps keys.
        The errors of `Model.trace`.
    """
    return CacheGrid(model, text)


class CacheGrid(TextExplorer):
    """A grid of the keys in the cache, with a row for each head of each layer, and a slider over the tokens.

    Attributes:
        filling: the keys of the present text.
        picture: the picture that is shown now.
        n_bytes: bytes of keys and values for the tokens read so far.
    """

    static_summary = "The full cache as a picture (it needs no running kernel)"
    kept = "The grid still shows the previous text."

    def __init__(self, model: Model, text: str) -> None:
        self.model = model
        style = {"description_width": HEADING_WIDTH}
        self.text = text_field(text)
        self.step = ipywidgets.IntSlider(description="Tokens read", min=0, max=1, style=style)
        self.step.layout.width = "46em"
        self.kind = buttons([(name, name) for name in ITEMSIZE], "Numbers in")
        self.view, self.figure = ipywidgets.HTML(), ipywidgets.HTML()
        self._read(text)
        super().__init__([self.text, self.step, self.kind, self.figure, self.view])
        self.reread_on(self.text)
        self.redraw_on((self.step, self.kind))

    def redraw(self) -> None:
        config, n = self.model.config, self.step.value
        itemsize = ITEMSIZE[self.kind.value]
        self.n_bytes = cache_bytes(config, n, itemsize)
        each = cache_bytes(config, 1, itemsize)
        self.picture = plots.caching.grid(self.filling, n, n_head=config.n_head, theme="page")
        self.figure.value = plots.svg(self.picture)
        shared = config.n_head // config.n_head_kv
        rows = {
            "per token": f"2 (keys, values) × {len(config.attentions)} layers × {config.n_head_kv} heads × "
            f"{config.head_size} numbers × {itemsize} bytes = {each} bytes",
            "so far": f"{n} × {each} = {self.n_bytes} bytes",
            "when full": f"{self.model.n_ctx} tokens, {self.model.n_ctx * each} bytes",
            "without sharing": f"{shared} times as much: {config.n_head} query heads share "
            f"{config.n_head_kv} key heads",
        }
        cells = "".join(f"<tr><th style='text-align:left'>{k}</th><td>{v}</td></tr>" for k, v in rows.items())
        self.view.value = f"<table>{cells}</table>"
        last = f", the last one {self.filling.texts[n - 1]}" if n else ""
        self.say(f"{n} tokens read{last}: {self.n_bytes} bytes of keys and values in {self.kind.value}.")

    def static_view(self) -> plots.Picture:
        """Return a picture of the cache after the whole text."""
        return plots.caching.grid(self.filling, len(self.filling.ids), n_head=self.model.config.n_head)

    def _read(self, text: str) -> None:
        ids = self.model.tokenizer.encode(text)[:N_SHOWN]
        self.filling: Filling = filling(self.model, ids)
        self.step.max = len(ids)
        self.step.value = min(3, len(ids))
