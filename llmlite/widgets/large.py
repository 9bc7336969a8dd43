"""Large type in one notebook, to turn on and off."""

from __future__ import annotations

from llmlite import plots
from llmlite.lessons import large


def large_type(on: bool = True) -> None:
    """Turn large type on or off, for this page, its widgets, and the figures that are drawn from now on.

    Figures that were drawn before don't change. `llmlite lab --large-type`, or the environment variable
    LLMLITE_LARGE=1, turns large type on in every lesson.

    Args:
        on: whether to turn it on.
    """
    scale = large.SCALE if on else 1.0
    plots.set_type_size(scale)
    large.show(scale)
