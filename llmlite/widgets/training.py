"""A loss curve that grows while a model is being trained."""

from __future__ import annotations

import ipywidgets
from IPython.display import display, publish_display_data

from llmlite import plots
from llmlite.widgets.base import Explorer

EVERY = 10  # steps between two drawings


def loss_curve(steps: int) -> LossCurve:
    """Show an empty loss curve and return it. Pass its method `add` to the training loop.

    Use it in a `with` block: at the end it says how the training ended, and shows its static view.

        with loss_curve(80) as curve:
            training.train(student, ids, 80, on_step=curve.add)

    Args:
        steps: number of steps of the training, at least 1.

    Raises:
        ValueError: `steps` is below 1.
    """
    curve = LossCurve(steps)
    display(curve)
    return curve


class LossCurve(Explorer):
    """A curve of the loss in each step so far.

    Attributes:
        steps: number of planned steps.
        losses: the loss of each step so far, in nats per token.
        picture: the picture that is shown now.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps!r}")
        self.steps, self.losses = steps, list[float]()
        self.picture: plots.Picture | None = None
        self.figure = ipywidgets.HTML()
        super().__init__([self.figure])
        self.say("The training hasn't begun.")

    def __enter__(self) -> LossCurve:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Draw all steps, and say if the training ended early or with an error."""
        if self.losses:
            self.redraw()
        if kind is not None or len(self.losses) < self.steps:
            ended = "Stopped by an error" if kind is not None else "Ended"
            self.say(f"{ended} after step {len(self.losses)} of {self.steps}.")
        if self.losses:
            publish_display_data(self.static_bundle())  # this stays visible when no kernel runs

    def add(self, step: int, loss: float) -> None:
        """Add the loss of a step. The curve is drawn again after every tenth step and after the last one.

        Args:
            step: the number of the step, from 0.
            loss: its loss, in nats per token.
        """
        self.losses.append(loss)
        if step % EVERY == 0 or step + 1 == self.steps:
            self.redraw()

    def redraw(self) -> None:
        self.picture = self._picture("page")
        self.figure.value = plots.svg(self.picture)
        self.say(f"Step {len(self.losses)} of {self.steps}: the loss is {self.losses[-1]:.2f}.")

    def static_view(self) -> plots.Picture:
        """Return a picture of the curve so far."""
        return self._picture(None)

    def _picture(self, theme: str | None) -> plots.Picture:
        return plots.lines(
            range(1, len(self.losses) + 1), {"loss": self.losses}, heading="The loss falls", x_label="step",
            y_label="loss, nats per token", rtol=0.5, theme=theme,
        )  # fmt: skip

    def _ipython_display_(self) -> None:
        """Show the widget and its static view, or only the widget if there is no loss yet."""
        if self.losses:
            super()._ipython_display_()
        else:
            data = self._repr_mimebundle_()
            publish_display_data(data[0] if isinstance(data, tuple) else data)
