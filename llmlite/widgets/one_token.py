"""One token's path through the model: a diagram in which a slider highlights one step after the other."""

from __future__ import annotations

import ipywidgets

from llmlite import plots
from llmlite.lessons.one_token import KEYS, STEPS, Walk, walk
from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.plots import one_token as figures
from llmlite.widgets.base import HEADING_WIDTH, TextExplorer, buttons, text_field

LONGEST = 14  # tokens that fit under the diagram; the first ones of a longer text


def token_path(model: Model, text: str) -> TokenPath:
    """Return a widget that follows the tokens of a text through the model, which runs once for each text.

    Args:
        model: the model to run.
        text: the text to begin with; the learner can change it.

    Raises:
        The errors of `lessons.one_token.walk`.
    """
    return TokenPath(model, text)


class TokenPath(TextExplorer):
    """A diagram of the model that highlights the chosen step and shows its numbers.

    Controls choose the step, the token and the layer.

    Attributes:
        walk: the results of all steps for the present text.
        picture: the picture that is shown now.
    """

    static_summary = "The diagram as a picture (it needs no running kernel)"
    kept = "The diagram still shows the previous text."

    def __init__(self, model: Model, text: str) -> None:
        self.model = model
        self.text = text_field(text)
        wide = {"style": {"description_width": HEADING_WIDTH}, "layout": {"width": "46em"}}
        self.step = ipywidgets.IntSlider(description="Step", min=0, max=len(STEPS) - 1, readout=False, **wide)
        self.token = ipywidgets.IntSlider(description="Token", min=0, max=1, readout=False, **wide)
        self.layer = buttons([(str(i), i) for i in range(model.config.n_layer)], "Layer")
        self.figure = ipywidgets.HTML()
        self.picture: plots.Picture | None = None
        self._read(text)
        super().__init__([self.text, self.step, self.token, self.layer, self.figure])
        self.reread_on(self.text)
        self.redraw_on((self.step, self.token, self.layer))

    def redraw(self) -> None:
        step, layer, token = STEPS[self.step.value], self.layer.value, self.token.value
        self.picture = self._picture(step.key, theme="page")
        self.figure.value = plots.svg(self.picture)
        place = f"in layer {layer}" if step.in_layer else "outside the layers"
        self.say(f"Step {self.step.value} of {len(STEPS) - 1}, {place}, token {token}. {step.says}")

    def static_view(self) -> plots.Picture:
        """Return the diagram at the last step, the logits."""
        return self._picture(KEYS[-1])

    def _picture(self, key: str, theme: str | None = None) -> plots.Picture:
        return figures.diagram(
            self.walk, key, layer=self.layer.value, token=self.token.value,
            names=lambda i: visible(self.model.tokenizer, i), theme=theme,
        )  # fmt: skip

    def _read(self, text: str) -> None:
        self.walk: Walk = walk(self.model, self.model.tokenizer.encode(text)[:LONGEST])
        self.token.max = len(self.walk.ids) - 1
        self.token.value = self.token.max
