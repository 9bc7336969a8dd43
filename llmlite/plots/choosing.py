"""Draw how a token is chosen: probabilities before and after the sampling chain, and the logit lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from llmlite.bench.report import short
from llmlite.lessons.choosing import Stage, cut_by
from llmlite.lessons.lens import Lens
from llmlite.plots.base import (
    COLOURS,
    FONT,
    Picture,
    figure,
    legend,
    names_down,
    number_at,
    theme_named,
    title,
)

# From transparent to a strong blue at 60 %, so that text in the theme's colour stays readable on it.
SHADES = LinearSegmentedColormap.from_list("probability", [(0.0, 0.45, 0.7, 0.0), (0.0, 0.45, 0.7, 0.6)])


def chain(
    found: Sequence[Stage],
    texts: Mapping[int, str],
    *,
    n: int = 14,
    theme: str | None = None,
    rtol: float = 1e-3,
) -> Picture:
    """Draw the likeliest tokens before and after the chain, and name the step that removed a token.

    Args:
        found: the stages that `lessons.choosing.stages` returns.
        texts: the text of each token, by id.
        n: how many tokens to draw.
        rtol: the largest relative difference that tests accept.
    """
    first, last, out = found[0], found[-1], cut_by(list(found))
    shown = [int(token) for token in first.ids[:n]]
    before = [100 * float(p) for p in first.probabilities[: len(shown)]]
    left = {int(token): 100 * float(p) for token, p in zip(last.ids, last.probabilities)}
    after = [left.get(token, 0.0) for token in shown]
    names = [texts[token] for token in shown]
    drawn, (ax,) = figure(10, 1.8 + 0.52 * len(shown), theme=theme)
    for place, (token, a, b) in enumerate(zip(shown, before, after)):
        labels = ("before the chain", "after the chain") if place == 0 else (None, None)
        ax.barh(place - 0.19, a, 0.34, color=COLOURS["sky"], label=labels[0])
        ax.barh(place + 0.19, b, 0.34, color=COLOURS["blue"], label=labels[1])
        note = f"cut: {out[token]}" if token in out else f"{short(a)} → {short(b)}"
        number_at(ax, max(a, b), place, theme, text=note)
    names_down(ax, names)
    ax.set_xlabel("probability, %", color=theme_named(theme).text, fontsize=FONT["label"])
    ax.margins(x=0.2)
    heading = ", ".join(stage.name for stage in found[1:])
    title(ax, heading, theme)
    legend(ax, theme, loc="lower right")
    alt = (
        f"The {len(shown)} likeliest tokens before and after {heading}: "
        + "; ".join(
            f"{name} {short(a)} %, " + (f"cut by {out[t]}" if t in out else f"then {short(b)} %")
            for t, name, a, b in zip(shown, names, before, after)
        )
        + f". {len(last.ids)} tokens are kept."
    )
    return Picture(
        figure=drawn,
        alt=alt,
        labels={"title": heading, "x": "token", "y": "probability, %"},
        x=names,
        y={"before the chain": before, "after the chain": after},
        rtol=rtol,
    )


def lens_grid(
    found: Lens, texts: Mapping[int, str], *, start: int = 0, theme: str | None = None, rtol: float = 1e-3
) -> Picture:
    """Draw the logit lens: the likeliest next token after each layer, at each position.

    The shade of a cell shows the token's probability.

    Args:
        found: the result of `lessons.lens.lens`.
        texts: the text of each token, by id.
        start: the first position to draw.
        rtol: the largest relative difference of probabilities that tests accept.
    """
    best, sure = found.best[:, start:], found.confidence[:, start:]
    n_stages, n_positions = best.shape
    look = theme_named(theme)
    drawn, (ax,) = figure(max(8.0, 1.0 * n_positions), 1.6 + 0.55 * n_stages, theme=theme)
    ax.grid(False)
    ax.imshow(sure, cmap=SHADES, vmin=0, vmax=1, aspect="auto", origin="lower")
    for stage, position in np.ndindex(n_stages, n_positions):
        text = texts[int(best[stage, position])]
        text = text if len(text) <= 9 else text[:8] + "…"
        ax.text(position, stage, text, ha="center", va="center", fontsize=12, color=look.text)
    names = [texts[token] for token in found.ids[start:]]
    ax.set_xticks(range(n_positions), names)
    ax.set_yticks(range(n_stages), found.stages)
    ax.set_xlabel("last token read", color=look.text, fontsize=FONT["label"])
    title(ax, "Likeliest next token after each layer (bluer: more likely)", theme)
    rows = []
    for stage in reversed(range(n_stages)):
        said = " ".join(
            f"{texts[int(token)]} ({p:.0%})" for token, p in zip(best[stage], sure[stage], strict=True)
        )
        rows.append(f"{found.stages[stage]}: {said}")
    return Picture(
        figure=drawn,
        alt=f"Logit lens over {' '.join(names)}. Likeliest next token, last layer first. {'; '.join(rows)}.",
        labels={"title": "logit lens", "x": "last token read", "y": "probability of the likeliest token"},
        x=[f"{start + i}: {name}" for i, name in enumerate(names)],
        y={name: [float(p) for p in row] for name, row in zip(found.stages, sure)},
        rtol=rtol,
    )
