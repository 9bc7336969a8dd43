"""An attention map beside a recurrent layer's states, growing with the text."""

from __future__ import annotations

import ipywidgets
import numpy as np

from llmlite import plots
from llmlite.errors import UnsupportedError
from llmlite.lessons.mixers import memory
from llmlite.model import Model
from llmlite.plots import mixers as figures
from llmlite.widgets.base import HEADING_WIDTH, Explorer, buttons


def mixer_memory(attention: Model, recurrent: Model, ids: list[int]) -> MixerMemory:
    """Return the picture of two models that read the same tokens: one has attention, one a state.

    Any model with a recurrent layer will do: the first such layer is shown.

    Raises:
        UnsupportedError: `recurrent` keeps no state.
    """
    return MixerMemory(attention, recurrent, ids)


class MixerMemory(Explorer):
    """A slider over the tokens read; buttons choose the attention head.

    Attributes:
        picture: what is drawn now. layer: the recurrent layer that is shown.
    """

    def __init__(self, attention: Model, recurrent: Model, ids: list[int]) -> None:
        found = [i for i in range(recurrent.config.n_layer) if memory(recurrent, ids[:1], i) is not None]
        if not found:
            raise UnsupportedError(f"a {recurrent.config.architecture.name} model keeps no state to show")
        self.recurrent, self.ids, self.layer = recurrent, list(ids), found[0]
        self.weights: np.ndarray = attention.trace(self.ids)["kq_soft_max-0"]  # (H, T, T)
        style = {"description_width": HEADING_WIDTH}
        self.step = ipywidgets.IntSlider(
            description="Tokens read",
            min=1,
            max=len(ids),
            value=len(ids),
            style=style,
            layout={"width": "46em"},
        )
        self.head = buttons([(str(i), i) for i in range(len(self.weights))], "Head")
        self.figure = ipywidgets.HTML()
        self.picture: plots.Picture | None = None
        super().__init__([self.step, self.head, self.figure])
        self.redraw_on((self.step, self.head))

    def redraw(self) -> None:
        self.picture = self._picture("page")
        self.figure.value = plots.svg(self.picture)
        n = self.step.value
        self.say(
            f"{n} tokens read: attention has {n} keys to look at; the state has as many numbers as ever."
        )

    def static_view(self) -> plots.Picture:
        """Return the picture after all tokens."""
        return self._picture(None)

    def _picture(self, theme: str | None) -> plots.Picture:
        n = self.step.value
        held = memory(self.recurrent, self.ids[:n], self.layer)
        assert held is not None
        return figures.beside(self.weights[self.head.value, :n, :n], held, self.ids[:n], theme=theme)
