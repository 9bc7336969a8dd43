"""The base classes of the widgets, with a static view for pages without a kernel, and common controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from itertools import takewhile
from typing import Any

import ipywidgets
from IPython.display import publish_display_data

from llmlite import plots
from llmlite.errors import LlmliteError

HEADING_WIDTH = "7.5em"
# Closed under the live widget. In the stored copies of the lessons, tools/lessons.py opens it.
STATIC = '<details class="llmlite-static"><summary>{summary}</summary>{body}</details>'

# A projector may show only 1280 x 720 pixels, so a widget is never higher than HIGHEST. Its controls and
# words stay visible while the view between them scrolls. A shadow above the words shows that there is more
# below (browsers without `animation-timeline` show only the scroll bar).
HIGHEST = 560  # pixels
# A picture is scaled down to the height that controls and words leave. Their height grows with the type size.
PICTURE = f"max(240px, calc({HIGHEST}px - 17 * var(--jp-widgets-font-size, 13px)))"
BUSY = "llmlite-busy"  # the class of a widget that computes
PATIENCE = 0.3  # seconds before it says that it computes; most results come sooner
STYLE = f"""<style>
.llmlite-explorer {{ max-height: {HIGHEST}px; overflow: auto; }}
.llmlite-explorer > * {{ flex-shrink: 0; }}
.llmlite-explorer > .llmlite-controls {{ position: sticky; top: 0; z-index: 2; overflow: visible;
  background: var(--jp-layout-color0, Canvas); }}
.llmlite-explorer > .llmlite-words {{ position: sticky; bottom: 0; z-index: 2;
  background: var(--jp-layout-color0, Canvas); animation: llmlite-more linear both;
  animation-timeline: scroll(nearest); }}
@keyframes llmlite-more {{ from, 98% {{ box-shadow: 0 -7px 6px -6px GrayText; }} to {{ box-shadow: none; }} }}
.llmlite-explorer [role=status] {{ max-height: 4.2em; overflow-y: auto; margin: .2em 0 0; line-height: 1.4; }}
.llmlite-explorer svg {{ max-height: {PICTURE}; }}
.llmlite-explorer .widget-toggle-buttons {{ display: flex; flex-flow: row nowrap; align-items: baseline;
  margin-right: 1.2em; }}
.llmlite-explorer .widget-toggle-buttons > .widget-label {{ flex: none; text-align: right;
  margin-right: .6em; }}
.{BUSY}, .{BUSY} * {{ cursor: progress; }}
.{BUSY} > .llmlite-words::before {{ content: "working …"; font-weight: bold; opacity: 0;
  animation: llmlite-appear 0s {PATIENCE}s forwards; }}
@keyframes llmlite-appear {{ to {{ opacity: 1; }} }}
</style>"""


class View(ipywidgets.VBox):
    """A column of widgets that only show something and aren't controls."""


class Explorer(ipywidgets.VBox):
    """A widget of the lessons: controls, a view and a line of words, with a static view under the widget.

    A subclass builds its controls and views, then calls `super().__init__(children)` and
    `self.redraw_on(controls)`. Its `redraw` draws the present state and calls `say`.

    Everything works by keyboard: Tab moves to the next control, the space bar presses or ticks it, and the
    arrow keys move sliders. Drop-down lists aren't used, because JupyterLab takes the arrow keys for itself.

    Args:
        children: the controls first, then the views.
        options: further options of `ipywidgets.VBox`.

    Attributes:
        words: the line of words that describes the view. Screen readers read each change.
    """

    static_summary = "As a picture (it needs no running kernel)"

    def __init__(self, children: Iterable[ipywidgets.Widget], **options: Any) -> None:
        self.words = ipywidgets.HTML(STYLE)
        self.words.add_class("llmlite-words")
        given = list(children)
        controls = list(takewhile(lambda each: not isinstance(each, ipywidgets.HTML | View), given))
        first = ipywidgets.VBox(controls)
        first.add_class("llmlite-controls")
        super().__init__([first, *given[len(controls) :], self.words], **options)
        self.add_class("llmlite-explorer")

    def redraw_on(self, controls: Iterable[ipywidgets.Widget], *, name: str = "value") -> None:
        """Call `redraw` now, and whenever one of the controls changes.

        Args:
            controls: the widgets to observe.
            name: the name of the trait to observe.
        """

        def changed(_change: Any) -> None:
            with self.working():
                self.redraw()

        for control in controls:
            control.observe(changed, names=name)
        self.redraw()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show that the widget computes, until the block ends. The page is updated at once."""
        self.add_class(BUSY)
        try:
            yield
        finally:
            self.remove_class(BUSY)

    def redraw(self) -> None:
        """Draw the present state."""
        raise NotImplementedError(type(self).__name__)

    def say(self, text: str) -> None:
        """Set the line of words under the view."""
        self.words.value = STYLE + f'<p role="status" aria-live="polite">{escape(text)}</p>'

    def static_view(self) -> plots.Picture | plots.Table:
        """Return the view that is shown when no kernel runs."""
        raise NotImplementedError(type(self).__name__)

    def static_bundle(self) -> dict[str, Any]:
        """Return the static view as a notebook stores it, MIME type -> content, with the HTML folded."""
        shown = plots.bundle(self.static_view())
        folded = STATIC.format(summary=escape(self.static_summary), body=shown["text/html"])
        return shown | {"text/html": folded}

    def _ipython_display_(self) -> None:
        """Show the widget, then the static view.

        The static view is needed because JupyterLab shows an error in place of a widget if no kernel runs.
        """
        data = self._repr_mimebundle_()
        publish_display_data(data[0] if isinstance(data, tuple) else data)
        publish_display_data(self.static_bundle())


class TextExplorer(Explorer):
    """An Explorer of what a model does with a text, which the user can change.

    A subclass defines a method `_read(text)`, and calls `self.reread_on(field)`.
    """

    kept = "The previous text is still shown."

    def reread_on(self, field: ipywidgets.Text) -> None:
        """Read the field's text whenever it changes. If that fails, say so and keep the present view."""

        def reread(_change: Any) -> None:
            with self.working():
                try:
                    self._read(field.value)
                except (LlmliteError, ValueError) as error:
                    self.say(f"This {field.description.lower()} can't be read: {error}. {self.kept}")
                    return
                self.redraw()

        field.observe(reread, names="value")

    def _read(self, text: str) -> None:
        raise NotImplementedError(type(self).__name__)


def text_field(text: str, heading: str = "Text") -> ipywidgets.Text:
    """Return a text field. A changed text takes effect when Enter is pressed.

    Args:
        text: the text at the beginning.
        heading: the label before the field.
    """
    return ipywidgets.Text(
        value=text,
        description=heading,
        continuous_update=False,
        layout={"width": "46em"},
        style={"description_width": HEADING_WIDTH},
    )


def picture_html(picture: plots.Picture) -> str:
    """Return a picture as inline SVG. If it has the theme "page", its text has the page's own colour."""
    return plots.svg(picture)


def boxes(names: Iterable[str], title: Callable[[str], str] = str) -> dict[str, ipywidgets.Checkbox]:
    """Return a ticked box for each name: name -> box.

    Args:
        names: the names.
        title: a function that returns the label of a name.
    """
    return {
        name: ipywidgets.Checkbox(
            value=True,
            description=title(name),
            indent=False,
            layout={"width": "auto", "margin": "2px 1.5em 2px 0"},
        )
        for name in names
    }


def row(
    heading: str, widgets: Mapping[str, ipywidgets.Widget] | Iterable[ipywidgets.Widget]
) -> ipywidgets.HBox:
    """Return a row of widgets after a heading. If the page is too narrow, the row is wrapped."""
    children = widgets.values() if isinstance(widgets, Mapping) else widgets
    label = ipywidgets.HTML(escape(heading), layout={"width": HEADING_WIDTH})
    return ipywidgets.HBox([label, *children], layout={"flex_flow": "row wrap", "align_items": "center"})


def buttons(
    options: Iterable[tuple[str, Any]], heading: str, *, tooltips: Iterable[str] = (), value: Any = None
) -> ipywidgets.ToggleButtons:
    """Return a control that chooses one of a few options, each a button as wide as its text.

    Args:
        options: (label, value) of each option.
        heading: the label before the buttons.
        tooltips: the tooltip of each option.
        value: the value that is chosen at the beginning; by default the first one.
    """
    given = list(options)
    return ipywidgets.ToggleButtons(
        options=given,
        value=given[0][1] if value is None else value,
        tooltips=list(tooltips),
        description=heading,
        style={"button_width": "auto", "description_width": HEADING_WIDTH},
    )
