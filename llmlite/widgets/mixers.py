"""An attention map beside a recurrent layer's state, while the text grows."""

from __future__ import annotations

import ipywidgets
import numpy as np

from llmlite import plots
from llmlite.engine.recurrent import RecurrentState
from llmlite.errors import UnsupportedError
from llmlite.lessons.mixers import memory
from llmlite.model import Model
from llmlite.plots import mixers as figures
from llmlite.widgets.base import HEADING_WIDTH, Explorer, buttons


def mixer_memory(attention: Model, recurrent: Model, ids: list[int]) -> MixerMemory:
    """Return a widget that compares two models on the same tokens: one has attention, the other a state.

    The first layer with attention is shown. If there are several recurrent layers, buttons choose one.

    Args:
        attention: a model with at least one attention layer.
        recurrent: a model with at least one recurrent layer (a delta net, Mamba, a short convolution). It can
            be the same model if that has both kinds of layers.
        ids: the token ids that both models read, at least one.

    Raises:
        UnsupportedError: `recurrent` keeps no state, or `attention` has no attention.
        ValueError: there are no tokens.
    """
    return MixerMemory(attention, recurrent, ids)


class MixerMemory(Explorer):
    """An attention map and a state, with a slider over the tokens, and buttons for the head and the layer.

    Attributes:
        recurrent: the model with recurrent layers.
        ids: the T token ids.
        layers: the numbers of the recurrent layers.
        weights: float32 (H, T, T): the attention weights of the first layer with attention.
        picture: the picture that is shown now.
    """

    def __init__(self, attention: Model, recurrent: Model, ids: list[int]) -> None:
        if not ids:
            raise ValueError("a picture of what layers keep needs at least one token")
        self.layers = [
            i for i, state in enumerate(recurrent.cache.states) if isinstance(state, RecurrentState)
        ]
        if not self.layers:
            raise UnsupportedError(f"a {recurrent.config.architecture.name} model keeps no state to show")
        self.recurrent, self.ids = recurrent, list(ids)
        maps = (value for name, value in attention.trace(self.ids).items() if name.startswith("kq_soft_max"))
        found = next(maps, None)
        if found is None:
            raise UnsupportedError(
                f"no layer of this {attention.config.architecture.name} model has attention"
            )
        self.weights: np.ndarray = found
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
        self.layer = buttons([(str(i), i) for i in self.layers], "State of layer")
        self.figure = ipywidgets.HTML()
        self.picture: plots.Picture | None = None
        choices = [self.head, self.layer] if len(self.layers) > 1 else [self.head]
        super().__init__([self.step, *choices, self.figure])
        self.redraw_on((self.step, *choices))

    def redraw(self) -> None:
        self.picture = self._picture("page")
        self.figure.value = plots.svg(self.picture)
        n = self.step.value
        held = memory(self.recurrent, self.ids[:n], self.layer.value)
        assert held is not None
        heads = "" if held.state is None else f"{held.state.size} numbers in {len(held.state)} heads, and "
        self.say(
            f"{n} tokens read: attention has {n} keys to attend to; layer {self.layer.value} keeps {heads}"
            f"a tail of {held.tail.size} numbers, the same as after any text."
        )

    def static_view(self) -> plots.Picture:
        """Return the picture for the number of tokens that the slider chooses."""
        return self._picture(None)

    def _picture(self, theme: str | None) -> plots.Picture:
        n = self.step.value
        held = memory(self.recurrent, self.ids[:n], self.layer.value)
        assert held is not None
        return figures.beside(self.weights[self.head.value, :n, :n], held, self.ids[:n], theme=theme)
