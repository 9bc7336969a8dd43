"""Draw one quantized block: its weights before and after a change, and the damage of each flipped bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from llmlite.bench.report import short
from llmlite.plots.base import COLOURS, FONT, Picture, figure, legend, theme_named, title

FLOOR = 1e-10  # nats; smaller values are rounding errors


def weights(
    before: np.ndarray,
    after: np.ndarray | None = None,
    *,
    original: np.ndarray | None = None,
    heading: str = "The weights of the block",
    theme: str | None = None,
) -> Picture:
    """Draw a block's weights, and on top of them its weights after a change.

    Args:
        before: (block_size,) weights of the block.
        after: (block_size,) weights after the change; None to draw no change.
        original: (block_size,) weights that the block was quantized from; None to leave them out.
    """
    after = before if after is None else after
    moved = np.flatnonzero(~(before == after))
    place = np.arange(len(before))
    drawn, (ax,) = figure(9, 3.6, theme=theme)
    size = 8 if len(before) <= 64 else 4
    if original is not None:
        ax.plot(place, original, "_", color=COLOURS["green"], markersize=size + 5, mew=2, label="original")
    ax.plot(place, before, "o", color=COLOURS["blue"], markersize=size, label="as stored")
    shown = np.where(np.isfinite(after), after, np.nan)
    if len(moved):
        ax.vlines(moved, before[moved], shown[moved], color=COLOURS["red"], linewidth=1.5)
        ax.plot(moved, shown[moved], "s", color=COLOURS["red"], markersize=size, label="after the flip")
    stretch = _stretch(ax, before, shown)
    look = theme_named(theme)
    y_label = "weight" + (" (stretched scale)" if stretch else "")
    ax.set_xlabel("position in the block", color=look.text, fontsize=FONT["label"])
    ax.set_ylabel(y_label, color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    if len(moved) or original is not None:
        legend(ax, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    y = {"as stored": before.tolist()}
    if original is not None:
        y["original"] = original.tolist()
    if len(moved):
        y["after the flip"] = after.tolist()
    labels = {"title": heading, "x": "position in the block", "y": y_label}
    alt = f"{heading}. {_moves(before, after, moved)}"
    return Picture(figure=drawn, alt=alt, labels=labels, x=place.tolist(), y=y)


def _stretch(ax: Axes, before: np.ndarray, after: np.ndarray) -> bool:
    """Make the scale logarithmic away from zero if a weight became huge; return whether it did."""
    usual = float(np.max(np.abs(before[np.isfinite(before)]), initial=0.0))
    far = float(np.nanmax(np.abs(after), initial=0.0))
    if not usual or far < 20 * usual:
        return False
    ax.set_yscale("symlog", linthresh=usual)
    powers = range(int(np.log10(far)), -1, -2)  # every second power, or the labels would overlap
    ax.set_yticks([sign * 10.0**power for power in powers for sign in (-1, 1)] + [0.0])
    ax.minorticks_off()
    return True


def _moves(before: np.ndarray, after: np.ndarray, moved: np.ndarray) -> str:
    if not len(moved):
        low, high = short(float(before.min())), short(float(before.max()))
        return f"{len(before)} weights between {low} and {high}."
    first = int(moved[0])
    far = int(moved[np.argmax(np.nan_to_num(np.abs(after - before)[moved], nan=np.inf))])
    text = f"{len(moved)} of {len(before)} weights moved"
    if far != first:
        text += f"; weight {first} from {before[first]:.4g} to {after[first]:.4g}"
    return f"{text}; weight {far} moved farthest, from {before[far]:.4g} to {after[far]:.4g}."


def damage(
    names: Sequence[str],
    kl: Sequence[float],
    *,
    heading: str = "What each bit is worth",
    theme: str | None = None,
) -> Picture:
    """Draw KL divergences, one bar per bit, on a scale of powers of ten."""
    powers = [float(np.log10(max(value, FLOOR))) for value in kl]
    bottom = np.log10(FLOOR)
    drawn, (ax,) = figure(9, 1.6 + 0.3 * len(names), theme=theme)
    colours = [COLOURS["red"] if value > 1 else COLOURS["blue"] for value in kl]
    ax.barh(range(len(names)), [p - bottom for p in powers], left=bottom, height=0.7, color=colours)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(bottom, 2)
    ticks = range(int(bottom), 3, 2)
    ax.set_xticks(list(ticks), [f"1e{p}" if p else "1" for p in ticks])
    ax.grid(False, axis="y")
    label = "KL divergence, nats (a factor of 100 per tick)"
    ax.set_xlabel(label, color=theme_named(theme).text, fontsize=FONT["label"])
    title(ax, heading, theme)
    worst, least = int(np.argmax(kl)), int(np.argmin(kl))
    alt = (
        f"{heading}. KL divergence on a logarithmic scale, {len(names)} bars. "
        f"Most: {names[worst]}, {kl[worst]:.2g}. Least: {names[least]}, {max(kl[least], FLOOR):.0e} or below."
    )
    labels = {"title": heading, "x": "", "y": "log10 of the KL divergence in nats"}
    # another CPU rounds differently, which moves the values near the floor
    return Picture(figure=drawn, alt=alt, labels=labels, x=list(names), y={"log10 KL": powers}, rtol=0.1)
