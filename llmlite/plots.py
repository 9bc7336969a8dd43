"""Figures that can be read by everybody: colours for the colour-blind, large type, words beside them.

A builder returns a `Picture`: the figure, its description in words, and its data. `show(picture)` puts all
of it into a notebook; `save(picture, path)` writes a PNG with the description inside and beside it.
matplotlib is imported in this file only.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmlite.bench.report import describe, describe_memory, short
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import METRICS, Summary, summarize

MIME = "application/vnd.llmlite.series+json"
# Okabe and Ito's colours, told apart in every common kind of colour blindness (Color Universal Design, 2008).
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "red": "#D55E00",
    "yellow": "#F0E442",
}
CYCLE = tuple(COLOURS.values())
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BACKEND_COLOURS = {
    "llmlite": "blue",
    "llmlite-eager": "sky",
    "torch-f32": "red",
    "torch-bf16": "orange",
    "llamacpp": "green",
}
DPI = 110
FONT = {"title": 15, "label": 14, "tick": 13}


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of everything that isn't data."""

    name: str
    background: str
    text: str
    grid: str


THEMES = {
    "light": Theme(name="light", background="#ffffff", text="#1a1a1a", grid="#d8d8d8"),
    "dark": Theme(name="dark", background="#16181c", text="#f0f0f0", grid="#44484f"),
    # For inline SVG in a page whose theme may change: the page's own text colour, and nothing behind.
    "page": Theme(name="page", background="none", text="#010203", grid="#888888"),
}


_usual = "light"


def use_theme(name: str) -> None:
    """Draw what comes after this in "light" or "dark", unless told otherwise; ValueError for another name."""
    global _usual
    _usual = theme_named(name).name


def theme_named(name: str | None) -> Theme:
    """Return the theme called `name`, or the one in use for None.

    Raises:
        ValueError: naming the themes there are.
    """
    name = _usual if name is None else name
    if name not in THEMES:
        raise ValueError(f"no theme {name!r}; there are: {', '.join(THEMES)}")
    return THEMES[name]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with what it shows.

    Args:
        figure: matplotlib's.
        alt: the description in words, for who doesn't see it.
        labels: "title", "x", "y" and whatever else is written on it.
        y: the data, numbers by series name; what tests compare.
        x: names or positions of the points of each series.
        rtol: how far the numbers may differ from run to run and still be the same result.
    """

    figure: Figure
    alt: str
    labels: Mapping[str, str]
    y: Mapping[str, Sequence[float]]
    x: Sequence[Any] = ()
    rtol: float = 1e-5

    def series(self) -> dict[str, Any]:
        """Return the data as JSON: labels, x, y, rtol."""
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


def bundle(picture: Picture) -> dict[str, Any]:
    """Return what a notebook gets: the picture with its description, the data, and a summary in text."""
    return {"text/html": html(picture), "text/plain": picture.alt, MIME: picture.series()}


def html(picture: Picture) -> str:
    """Return the picture as one HTML element: image, description, and its data as a table."""
    encoded = base64.b64encode(png(picture)).decode()
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(picture.x), picture.table())
    )
    return (
        f'<figure style="margin:0"><img alt="{escape(picture.alt, quote=True)}" '
        f'style="max-width:100%;height:auto" src="data:image/png;base64,{encoded}">'
        f"<figcaption><details><summary>In words and numbers</summary><p>{escape(picture.alt)}</p>"
        f"<table>{table}</table></details></figcaption></figure>"
    )


def show(picture: Picture) -> None:
    """Display a picture in a notebook, with description and data; in a terminal, print the description."""
    try:
        from IPython import get_ipython
        from IPython.display import publish_display_data

        in_notebook = get_ipython() is not None
    except ImportError:
        in_notebook = False
    if in_notebook:
        publish_display_data(bundle(picture))
    else:
        print(picture.alt)


def png(picture: Picture) -> bytes:
    """Return the picture as PNG, its description in the PNG's own text fields."""
    buffer = io.BytesIO()
    text = {"Title": picture.labels.get("title", ""), "Description": picture.alt, "Software": "llmlite"}
    figure = picture.figure
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), metadata=text)
    return buffer.getvalue()


def save(picture: Picture, path: str | os.PathLike[str]) -> list[Path]:
    """Write the picture as PNG, and its description beside it as .alt.txt; return both paths."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture))
    words = path.with_suffix(".alt.txt")
    words.write_text(picture.alt + "\n", encoding="utf-8")
    return [path, words]


def svg(picture: Picture) -> str:
    """Return the picture as an inline SVG element that takes its text colour from the page ("page" theme)."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):  # text stays text
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(THEMES["page"].text, "currentColor")
    label = f'role="img" aria-label="{escape(picture.alt, quote=True)}" style="max-width:100%;height:auto" '
    return text.replace("<svg ", f"<svg {label}", 1)


# --- styled axes ------------------------------------------------------------------------------


def figure(
    width: float, height: float, n_axes: int = 1, *, theme: str | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes side by side, styled for a projector.

    Args:
        width, height: in inches.
        theme: a key of THEMES; None for the one in use.

    Raises:
        ValueError: naming the themes there are.
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
    """Write a title over one axes, to the left, where reading starts."""
    ax.set_title(text, loc="left", color=theme_named(theme).text, fontsize=FONT["title"], pad=10)


def legend(ax: Axes, theme: str | None, **options: Any) -> None:
    """Add a legend in the theme's colours."""
    box = ax.legend(fontsize=FONT["tick"], frameon=False, **options)
    for text in box.get_texts():
        text.set_color(theme_named(theme).text)


# --- pictures ---------------------------------------------------------------------------------


def metric_bars(
    comparison: Comparison,
    metric: str = "decode",
    *,
    backends: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    theme: str | None = None,
) -> Picture:
    """Draw one metric: a bar per backend and quantization, every block's value as a point on it.

    Args:
        metric: a key of llmlite.bench.METRICS.
        backends, types: draw only these; None for all.
        theme: "light", "dark" or "page"; None for the one in use.

    Raises:
        ValueError: an unknown metric or theme.
    """
    found = [
        s
        for s in summarize(comparison, metric)
        if (backends is None or s.backend in backends) and (types is None or s.model_type in types)
    ]
    about = METRICS[metric]
    drawn, (ax,) = figure(9, 1.5 + 0.55 * max(len(found), 1), theme=theme)
    _bars(ax, found, theme)
    title(ax, about.title, theme)
    return Picture(
        figure=drawn,
        alt=describe(found, metric),
        labels={"title": about.title, "x": "", "y": about.title},
        x=[s.label for s in found],
        y={about.title: [s.value for s in found]},
        rtol=0.02,
    )


def comparison(result: Comparison, *, theme: str | None = None) -> Picture:
    """Draw a comparison: reading and writing speed with every block as a point, memory by kind.

    Args:
        theme: "light" or "dark"; None for the one in use.
    """
    speeds = {key: summarize(result, key) for key in ("prefill", "decode")}
    rows = max(len(speeds["decode"]), 1)
    drawn, axes = figure(12.5, 2.2 + 0.5 * rows, 3, theme=theme)
    for ax, (key, found) in zip(axes, speeds.items()):
        _bars(ax, found, theme, names=ax is axes[0])
        title(ax, METRICS[key].title.replace(", ", "\n"), theme)
    memory = _memory_bars(axes[2], result, theme)
    title(axes[2], "memory after writing, MB", theme)
    place = ", ".join(
        [str(result.environment.get("cpu_info")), f"{result.environment.get('n_threads')} threads"]
    )
    drawn.supxlabel(f"{place}; bars: medians, points: blocks", color=theme_named(theme).text, fontsize=12)
    alt = " ".join([*(describe(found, key) for key, found in speeds.items()), describe_memory(memory)])
    y = {METRICS[key].title: [s.value for s in found] for key, found in speeds.items()}
    return Picture(
        figure=drawn,
        alt=alt,
        labels={"title": "comparison", "x": "", "y": "speed and memory"},
        x=[s.label for s in speeds["decode"]],
        y=y | {"private MB": [p for _, p, _ in memory], "file-backed MB": [f for _, _, f in memory]},
        rtol=1.0,
    )


def lines(
    x: Sequence[float],
    y: Mapping[str, Sequence[float]],
    *,
    heading: str,
    x_label: str,
    y_label: str,
    alt: str = "",
    rtol: float = 1e-5,
    theme: str | None = None,
) -> Picture:
    """Draw one line per series, told apart by colour and by marker.

    Args:
        x: positions, shared by all series. y: numbers by name, each as long as `x`.
        alt: a description; by default the ends of each line. rtol: how far tests let the numbers differ.
    """
    drawn, (ax,) = figure(9, 4.5, theme=theme)
    for (name, values), colour, marker in zip(y.items(), CYCLE, MARKERS):
        every = max(1, len(values) // 12)
        ax.plot(
            x, values, color=colour, marker=marker, markevery=every, markersize=8, linewidth=2.2, label=name
        )
    look = theme_named(theme)
    ax.set_xlabel(x_label, color=look.text, fontsize=FONT["label"])
    ax.set_ylabel(y_label, color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    if len(y) > 1:
        legend(ax, theme)
    if not alt:
        ends = [f"{name} goes from {short(v[0])} to {short(v[-1])}" for name, v in y.items()]
        alt = f"{heading}. {y_label} over {x_label}: {'; '.join(ends)}."
    return Picture(
        figure=drawn, alt=alt, labels={"title": heading, "x": x_label, "y": y_label}, x=x, y=y, rtol=rtol
    )


def bars(
    names: Sequence[str],
    y: Mapping[str, Sequence[float]],
    *,
    heading: str,
    y_label: str,
    alt: str = "",
    rtol: float = 1e-5,
    theme: str | None = None,
) -> Picture:
    """Draw horizontal bars: one group per name, one bar per series, each with its number.

    Args:
        names: one per group. y: numbers by series name, each as long as `names`.
        alt, rtol: as for `lines`.
    """
    drawn, (ax,) = figure(9, 1.6 + 0.42 * len(names) * len(y), theme=theme)
    height = 0.8 / len(y)
    for i, ((name, values), colour) in enumerate(zip(y.items(), CYCLE)):
        places = np.arange(len(names)) + (i - (len(y) - 1) / 2) * height
        ax.barh(places, values, height * 0.9, color=colour, label=name)
        for place, value in zip(places, values):
            _number_at(ax, value, place, theme)
    _names(ax, names)
    ax.set_xlabel(y_label, color=theme_named(theme).text, fontsize=FONT["label"])
    ax.margins(x=0.15)
    title(ax, heading, theme)
    if len(y) > 1:
        legend(ax, theme)
    if not alt:
        parts = [
            f"{series}: " + ", ".join(f"{n} {short(v)}" for n, v in zip(names, values))
            for series, values in y.items()
        ]
        alt = f"{heading}. {y_label}. {'; '.join(parts)}."
    return Picture(
        figure=drawn, alt=alt, labels={"title": heading, "x": "", "y": y_label}, x=names, y=y, rtol=rtol
    )


def _bars(ax: Axes, found: Sequence[Summary], theme: str | None, *, names: bool = True) -> None:
    for place, s in enumerate(found):
        colour = COLOURS[BACKEND_COLOURS.get(s.backend, "purple")]
        ax.barh(place, s.value, 0.66, color=colour, alpha=0.85)
        offsets = np.linspace(-0.2, 0.2, len(s.values)) if len(s.values) > 1 else np.zeros(len(s.values))
        ax.plot(
            s.values,
            place + offsets,
            "o",
            markersize=5,
            color=theme_named(theme).text,
            markeredgecolor=colour,
            markeredgewidth=0.8,
        )
        _number_at(ax, max(s.value, *s.values), place, theme, text=short(s.value))
    _names(ax, [s.label for s in found] if names else [""] * len(found))
    ax.margins(x=0.18)
    ax.set_xlim(left=0)


def _memory_bars(ax: Axes, result: Comparison, theme: str | None) -> list[tuple[str, float, float]]:
    """Stack private under file-backed memory: one bar per entry, in the same order as the speeds."""
    file = {(s.backend, s.model_type): s.value for s in summarize(result, "file")}
    private = {(s.backend, s.model_type): s for s in summarize(result, "private")}
    rows = [(s.label, s.value, file.get(key, 0.0)) for key, s in private.items()]
    for place, (_, anonymous, mapped) in enumerate(rows):
        ax.barh(place, anonymous, 0.66, color=COLOURS["purple"], label="private" if place == 0 else None)
        ax.barh(
            place,
            mapped,
            0.66,
            left=anonymous,
            color=COLOURS["sky"],
            hatch="//",
            edgecolor=theme_named(theme).background,
            label="file-backed" if place == 0 else None,
        )
        _number_at(ax, anonymous + mapped, place, theme)
    _names(ax, [""] * len(rows))
    ax.margins(x=0.18)
    if rows:
        legend(ax, theme, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    return rows


def _names(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)  # the first on top
    ax.grid(False, axis="y")


def _number_at(ax: Axes, value: float, place: float, theme: str | None, text: str = "") -> None:
    ax.annotate(
        text or short(value),
        (value, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=theme_named(theme).text,
        fontsize=FONT["tick"],
    )
