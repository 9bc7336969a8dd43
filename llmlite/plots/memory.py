"""Draw a process's memory over time."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from llmlite.bench.timeline import Timeline
from llmlite.plots.base import COLOURS, FONT, Picture, figure, legend, theme_named, title

CHARACTER = 0.0125  # width of a character in a stage's name, as a share of the time axis
LEVEL = 0.09  # distance between two lines of names, as a share of the peak memory


def timeline(
    found: Timeline,
    *,
    cursor: float | None = None,
    among: Sequence[Timeline] = (),
    theme: str | None = None,
) -> Picture:
    """Draw a process's private memory, file-backed memory on top of it, and its stages.

    Args:
        cursor: a time in seconds to mark; None for none.
        among: the processes that are shown in turn with this one: all get the same axes.
        theme: a key of plots.THEMES; None for the current one.
    """
    look = theme_named(theme)
    drawn, (ax,) = figure(11, 4.2, theme=theme)
    _stack(ax, found, theme)
    longest, top = _ends([found, *among])
    levels = _levels(found.stages, longest)
    for (name, second), level in zip(found.stages, levels):
        ax.axvline(second, color=look.text, linewidth=1, linestyle=":")
        ax.annotate(
            name,
            (second, top * (1.04 + LEVEL * level)),
            xytext=(3, 0),
            textcoords="offset points",
            color=look.text,
            fontsize=FONT["tick"],
        )
    if cursor is not None:
        ax.axvline(cursor, color=COLOURS["red"], linewidth=2)
    ax.set_xlim(0, longest)
    n_levels = 1 + max((n for each in (found, *among) for n in _levels(each.stages, longest)), default=-1)
    ax.set_ylim(0, top * (1.06 + LEVEL * n_levels))
    heading = f"Memory of {found.backend}, {found.model}"
    ax.set_xlabel("seconds since the process started", color=look.text, fontsize=FONT["label"])
    ax.set_ylabel("MB", color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    legend(ax, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ends = {name: found.at_end_of(name) for name, _ in found.stages if _has(found, name)}
    said = "; ".join(f"{n}: {p / 1e6:.0f} private, {f / 1e6:.0f} file-backed" for n, (p, f) in ends.items())
    return Picture(
        figure=drawn,
        alt=f"{heading}, in MB at the end of each stage. {said}.",
        labels={"title": heading, "x": "stage", "y": "MB at its end"},
        x=list(ends),
        y={
            "private": [p / 1e6 for p, _ in ends.values()],
            "file-backed": [f / 1e6 for _, f in ends.values()],
        },
        rtol=0.2,
    )


def timelines(found: Sequence[Timeline], *, theme: str | None = None) -> Picture:
    """Draw several processes side by side, with the same axes of time and memory."""
    drawn, axes = figure(4.4 * len(found) + 1, 3.8, len(found), theme=theme)
    longest, top = _ends(found)
    for ax, each in zip(axes, found):
        _stack(ax, each, theme)
        ax.set_xlim(0, longest)
        ax.set_ylim(0, top * 1.08)
        ax.set_xlabel("seconds", color=theme_named(theme).text, fontsize=FONT["label"])
        title(ax, each.backend, theme)
    axes[0].set_ylabel("MB", color=theme_named(theme).text, fontsize=FONT["label"])
    legend(axes[0], theme, loc="upper left")
    last = {each.backend: (each.private[-1] / 1e6, each.file_backed[-1] / 1e6) for each in found}
    said = "; ".join(f"{name}: {p:.0f} MB private, {f:.0f} MB file-backed" for name, (p, f) in last.items())
    machines = ", ".join(dict.fromkeys(each.machine for each in found))
    return Picture(
        figure=drawn,
        alt=f"Memory over time, at the end: {said}. Measured on: {machines}.",
        labels={"title": "Memory over time", "x": "backend", "y": "MB at the end"},
        x=list(last),
        y={"private": [p for p, _ in last.values()], "file-backed": [f for _, f in last.values()]},
        rtol=0.2,
    )


def _levels(stages: Sequence[tuple[str, float]], longest: float) -> list[int]:
    """Return the line of each stage's name, counted from the bottom, so that no two names touch."""
    free: list[float] = []  # the end of each line's last name, in seconds
    levels = []
    for name, second in stages:
        level = next((i for i, end in enumerate(free) if end <= second), len(free))
        end = second + longest * CHARACTER * (len(name) + 1)
        free[level : level + 1] = [end]
        levels.append(level)
    return levels


def _ends(found: Sequence[Timeline]) -> tuple[float, float]:
    """Return the seconds and the megabytes that the axes need to show all processes."""
    longest = max(each.seconds[-1] for each in found)
    return longest, max(p + f for each in found for p, f in zip(each.private, each.file_backed)) / 1e6


def _has(found: Timeline, stage: str) -> bool:
    return any(found.stage_at(second) == stage for second in found.seconds)


def _stack(ax: Axes, found: Timeline, theme: str | None) -> None:
    private = [p / 1e6 for p in found.private]
    total = [p + f / 1e6 for p, f in zip(private, found.file_backed)]
    edge = theme_named(theme).text
    ax.fill_between(found.seconds, private, color=COLOURS["purple"], label="private", linewidth=0)
    ax.fill_between(
        found.seconds,
        private,
        total,
        color=COLOURS["sky"],
        hatch="//",
        edgecolor=edge,
        linewidth=0,
        label="file-backed",
        alpha=0.8,
    )
