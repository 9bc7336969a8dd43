"""Provide the parts of every figure: themes, `Picture` and `Table`, styled axes."""

from __future__ import annotations

import base64
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmlite.bench.report import short
from llmlite.lessons import large
from llmlite.system import files
from llmlite.terminal import say

MIME = "application/vnd.llmlite.series+json"
# Okabe and Ito's colours. People with any common kind of colour blindness can tell them apart
# (Color Universal Design, 2008).
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "red": "#D55E00",
    "yellow": "#F0E442",
    "grey": "#666666",  # in place of their black: it can be seen on light and on dark pages
}
CYCLE = tuple(COLOURS.values())
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NUMBER = re.compile(r"[-+−]?[\d,.]*(e[-+]?\d+)?( ?%)?")  # or nothing
DPI = 110
USUAL_FONT = {"title": 15, "label": 14, "tick": 13}
FONT = dict(USUAL_FONT)  # the sizes in use; see set_type_size
# Shows the drawing instead of the image. If a page removes styles, the image stays.
FOLLOW = (
    "<style>.llmlite-figure>.llmlite-drawn{display:block!important}.llmlite-figure>img{display:none}</style>"
)


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Hold the colours of everything that isn't data."""

    name: str
    background: str
    text: str
    grid: str


THEMES = {
    "light": Theme(name="light", background="#ffffff", text="#1a1a1a", grid="#d8d8d8"),
    "dark": Theme(name="dark", background="#16181c", text="#f0f0f0", grid="#44484f"),
    # For inline SVG in a page whose theme may change: the page's own text colour, and no background.
    "page": Theme(name="page", background="none", text="#010203", grid="#888888"),
}


_usual = "light"


def use_theme(name: str) -> None:
    """Draw the figures that follow in this theme, unless a call names another one.

    Args:
        name: "light" or "dark".

    Raises:
        ValueError: another name.
    """
    global _usual
    _usual = theme_named(name).name


def set_type_size(scale: float) -> None:
    """Set the type size of the figures that follow to `scale` times the usual one.

    Raises:
        ValueError: `scale` isn't between 0.5 and 3.
    """
    if not 0.5 <= scale <= 3:
        raise ValueError(f"the scale of type must be between 0.5 and 3, got {scale!r}")
    FONT.update({name: round(size * scale) for name, size in USUAL_FONT.items()})


if large.wished():
    set_type_size(large.SCALE)


def theme_named(name: str | None) -> Theme:
    """Return the theme called `name`; the current theme if it is None.

    Raises:
        ValueError: no theme has that name; the error lists the names.
    """
    name = _usual if name is None else name
    if name not in THEMES:
        raise ValueError(f"no theme {name!r}; there are: {', '.join(THEMES)}")
    return THEMES[name]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Hold a figure, its description and its data.

    Attributes:
        figure: the matplotlib figure.
        alt: a description for readers who can't see the figure.
        labels: the text written on the figure: "title", "x", "y" and any others.
        y: the data that tests compare: numbers by series name.
        x: the names or positions of the points of each series.
        rtol: the largest relative difference between two runs that still counts as the same result.
    """

    figure: Figure
    alt: str
    labels: Mapping[str, str]
    y: Mapping[str, Sequence[float]]
    x: Sequence[Any] = ()
    rtol: float = 1e-5

    def series(self) -> dict[str, Any]:
        """Return the data, ready for JSON: labels, x, y, rtol."""
        return {
            "labels": dict(self.labels),
            "x": [value if isinstance(value, str) else float(value) for value in self.x],
            "y": {name: [float(v) for v in values] for name, values in self.y.items()},
            "rtol": self.rtol,
        }

    def table(self) -> list[list[str]]:
        """Return the data as rows of text, headings first."""
        names = list(self.y)
        rows = [[self.labels.get("x", ""), *names]]
        for i, place in enumerate(self.x):
            values = [self.y[name] for name in names]
            rows.append([str(place), *(short(v[i]) if i < len(v) else "" for v in values)])
        return rows

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return bundle(self)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Hold rows with headings, for data that a figure would show less well.

    Tables are displayed, described and compared like pictures.

    Attributes:
        heading: the title of the table.
        columns: the headings; the first one belongs to the names of the rows.
        rows: cells of text or numbers; each row is as long as `columns`.
        alt: the text description.
        rtol: the largest relative difference between two runs that still counts as the same result.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    alt: str
    rtol: float = 1e-5

    def series(self) -> dict[str, Any]:
        """Return the data by column, ready for JSON: labels, x (the first column), y (the others), rtol."""
        columns = {name: [_plain(row[i]) for row in self.rows] for i, name in enumerate(self.columns)}
        first = self.columns[0]
        return {
            "labels": {"title": self.heading, "columns": list(self.columns)},
            "x": [str(value) for value in columns[first]],
            "y": {name: values for name, values in columns.items() if name != first},
            "rtol": self.rtol,
        }

    def table(self) -> list[list[str]]:
        """Return the data as rows of text, headings first."""
        return [list(self.columns), *([_cell(value) for value in row] for row in self.rows)]

    def html(self) -> str:
        """Return the table as one HTML element, its heading as the caption."""
        return (
            f'<table aria-label="{escape(self.alt, quote=True)}"><caption>{escape(self.heading)}</caption>'
            f"{_table_rows(self.table())}</table>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return bundle(self)


def _plain(value: Any) -> Any:
    """Return a cell as a value that JSON has: bool, number or text."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (bool, int, float)) else str(value)


def _cell(value: Any) -> str:
    return short(float(value)) if isinstance(value, (float, np.floating)) else str(value)


def _table_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as HTML, with text aligned left: JupyterLab would align all columns right."""
    styles = []
    for column in zip(*rows):
        is_text = any(not NUMBER.fullmatch(cell) for cell in column[1:])
        styles.append(' style="text-align:left"' if is_text else "")
    tags = ["th", *["td"] * (len(rows) - 1)]
    return "".join(
        "<tr>" + "".join(f"<{tag}{s}>{escape(c)}</{tag}>" for s, c in zip(styles, row, strict=True)) + "</tr>"
        for tag, row in zip(tags, rows, strict=True)
    )


def bundle(shown: Picture | Table) -> dict[str, Any]:
    """Return the MIME bundle for a notebook: the picture and its description, the data, a summary."""
    return {"text/html": html(shown), "text/plain": shown.alt, MIME: shown.series()}


def html(shown: Picture | Table) -> str:
    """Return one HTML element: a table, or a picture with its description and its data as a table.

    The element holds a picture twice. The drawing (SVG) takes its colours from the page, so it follows a
    light or dark theme. A page that removes styles (GitHub, a notebook that isn't trusted) shows the image.
    """
    if isinstance(shown, Table):
        return shown.html()
    encoded = base64.b64encode(png(shown)).decode()
    shown.figure.set_layout_engine("none")  # keep the layout: computing it again takes seconds
    return (
        f'<figure class="llmlite-figure" style="margin:0">{FOLLOW}'
        f'<div class="llmlite-drawn" style="display:none">{svg(shown)}</div>'
        f'<img alt="{escape(shown.alt, quote=True)}" '
        f'style="max-width:100%;height:auto" src="data:image/png;base64,{encoded}">'
        f"<figcaption><details><summary>In words and numbers</summary><p>{escape(shown.alt)}</p>"
        f"<table>{_table_rows(shown.table())}</table></details></figcaption></figure>"
    )


def show(picture: Picture | Table) -> None:
    """Display a picture or a table with its description and data; print the description in a terminal."""
    try:
        from IPython import get_ipython
        from IPython.display import publish_display_data

        in_notebook = get_ipython() is not None
    except ImportError:
        in_notebook = False
    if in_notebook:
        publish_display_data(bundle(picture))
    else:
        say(picture.alt)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings about letters that the font lacks.

    Tokens of a large vocabulary have such letters; boxes are drawn for them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def png(picture: Picture) -> bytes:
    """Return the picture as PNG, with its description in the PNG's text fields."""
    buffer = io.BytesIO()
    text = {"Title": picture.labels.get("title", ""), "Description": picture.alt, "Software": "llmlite"}
    figure = picture.figure
    with _quiet():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), metadata=text)
    return buffer.getvalue()


def save(picture: Picture, path: str | os.PathLike[str]) -> list[Path]:
    """Write the picture as PNG and its description as .alt.txt beside it; return both paths."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, png(picture))
    words = path.with_suffix(".alt.txt")
    files.write_text(words, picture.alt + "\n")
    return [path, words]


def svg(picture: Picture) -> str:
    """Return the picture as an inline SVG element in the colours of the page, whatever its theme."""
    buffer = io.StringIO()
    # keep text as text, and give the same picture the same ids in every run
    with (
        rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "llmlite"}),
        _quiet(),
    ):
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for theme in THEMES.values():
        text = text.replace(theme.text, "currentColor").replace(theme.grid, THEMES["page"].grid)
    label = f'role="img" aria-label="{escape(picture.alt, quote=True)}" style="max-width:100%;height:auto" '
    return text.replace("<svg ", f"<svg {label}", 1)


# --- styled axes ------------------------------------------------------------------------------


def figure(
    width: float, height: float, n_axes: int = 1, *, theme: str | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes side by side, styled for a projector.

    Args:
        width, height: in inches.
        theme: a key of THEMES; None for the current one.

    Raises:
        ValueError: no theme has that name; the error lists the names.
    """
    look = theme_named(theme)
    drawn = Figure(figsize=(width, height), layout="constrained", facecolor=look.background)
    axes = [drawn.add_subplot(1, n_axes, i + 1) for i in range(n_axes)]
    for ax in axes:
        ax.set_facecolor(look.background)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(look.text)
        ax.tick_params(colors=look.text, labelsize=FONT["tick"])
        ax.grid(True, color=look.grid, linewidth=0.8)
        ax.set_axisbelow(True)
    return drawn, axes


def title(ax: Axes, text: str, theme: str | None) -> None:
    """Write a title above axes, on the left, where reading starts."""
    ax.set_title(text, loc="left", color=theme_named(theme).text, fontsize=FONT["title"], pad=10)


def narrow(text: str, n_letters: int) -> str:
    """Return a title broken into lines for narrow axes.

    A line has at most `n_letters` letters in the usual type size, fewer in a larger one.
    """
    scale = FONT["title"] / USUAL_FONT["title"]
    width = int(n_letters / scale**2)  # larger names at the side also leave less room
    return "\n".join(fill(line, width) for line in text.splitlines())


def legend(ax: Axes, theme: str | None, **options: Any) -> None:
    """Add a legend in the theme's colours."""
    box = ax.legend(fontsize=FONT["tick"], frameon=False, **options)
    for text in box.get_texts():
        text.set_color(theme_named(theme).text)


def names_down(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)  # the first on top
    ax.grid(False, axis="y")


def number_at(ax: Axes, value: float, place: float, theme: str | None, text: str = "") -> None:
    ax.annotate(
        text or short(value),
        (value, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=theme_named(theme).text,
        fontsize=FONT["tick"],
    )
